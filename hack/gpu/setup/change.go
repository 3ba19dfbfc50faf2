package setup

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"greenthread.ai/hack/gpu/card"
)

const setUsage = "usage: gpu-sim-set UUID|INDEX|all KEY=VALUE…   keys of gpu.json, or engine.KEY for engine.json"

// SetMain is gpu-sim-set: it changes what a GPU says, or how engines behave on it, as a whole and at once.
func SetMain(args []string) int {
	if len(args) < 2 {
		fmt.Fprintln(os.Stderr, setUsage)
		return 2
	}
	if err := set(card.Dir(), args[0], args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gpu-sim-set:", err)
		return 1
	}
	return 0
}

func set(dir, id string, changes []string) error {
	cards, err := card.List(dir)
	if err != nil {
		return err
	}
	found := false
	for _, c := range cards {
		if id != "all" && id != c.UUID && id != strconv.Itoa(c.Index) {
			continue
		}
		found = true
		if err := change(filepath.Join(dir, c.UUID), changes); err != nil {
			return err
		}
	}
	if !found {
		return fmt.Errorf("no GPU %s in %s", id, dir)
	}
	return nil
}

func change(folder string, changes []string) error {
	gpu, engine := []string{}, []string{}
	for _, c := range changes {
		if pair, isEngine := strings.CutPrefix(c, "engine."); isEngine {
			engine = append(engine, pair)
		} else {
			gpu = append(gpu, c)
		}
	}
	if err := changeFile(filepath.Join(folder, "engine.json"), engine, nil); err != nil {
		return err
	}
	return changeFile(filepath.Join(folder, "gpu.json"), gpu, func(text []byte) error {
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.DisallowUnknownFields() // a mistyped fault must not pass for a healthy GPU
		c := &card.Card{}
		if err := decoder.Decode(c); err != nil {
			return err
		}
		if _, known := card.Faults[c.Fault]; !known {
			return fmt.Errorf("fault=%s: no such fault", c.Fault)
		}
		return nil
	})
}

func changeFile(path string, changes []string, check func([]byte) error) error {
	if len(changes) == 0 {
		return nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	values := map[string]any{}
	if err := json.Unmarshal(text, &values); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, pair := range changes {
		if err := setPair(values, pair); err != nil {
			return err
		}
	}
	if text, err = json.Marshal(values); err != nil {
		return err
	}
	if check != nil {
		if err := check(text); err != nil {
			return err
		}
	}
	return card.WriteJSON(path, values)
}

// setPair puts KEY=VALUE into values: JSON where it reads as JSON, else text; xml.PATH and facts.NAME reach inside.
func setPair(values map[string]any, pair string) error {
	key, text, ok := strings.Cut(pair, "=")
	if !ok {
		return fmt.Errorf("%q is not KEY=VALUE", pair)
	}
	for _, outer := range []string{"xml", "facts"} {
		if inner, reaches := strings.CutPrefix(key, outer+"."); reaches {
			table, isTable := values[outer].(map[string]any)
			if !isTable {
				table = map[string]any{}
			}
			table[inner] = text
			values[outer] = table
			return nil
		}
	}
	var value any
	if json.Unmarshal([]byte(text), &value) != nil {
		value = text
	}
	values[key] = value
	return nil
}
