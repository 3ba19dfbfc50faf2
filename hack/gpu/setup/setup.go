// Package setup makes and changes the folders that stand for a node's GPUs.
package setup

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"greenthread.ai/hack/gpu/card"
)

// gpusMax is the most GPUs a simulated node has.
const gpusMax = 64

// EngineDefaults are engine.json: how the simulated engine behaves on this GPU. hack/engine/README.md explains each.
var EngineDefaults = map[string]any{
	"bootSeconds": 3.0, "tokensPerSecond": 50.0, "firstTokenMs": 20.0, "wakeGBPerSecond": 25.0, "wakeBaseMs": 300.0,
	"sleepMs": 90.0, "residueMiB": 0.0,
}

// Dialects name the driver that stands for each schema of `nvidia-smi -q -x`.
var Dialects = map[string]string{"v11": "515.105.01", "v12": "570.124.04", "v13": "595.58.03"}

// cudaOf names the CUDA version that a driver branch brings.
var cudaOf = map[string]string{"418": "10.1", "515": "11.7", "525": "12.0", "536": "12.2", "570": "12.8", "595": "13.2"}

// Main is gpu-sim-setup.
func Main(args []string) int {
	flags := flag.NewFlagSet("gpu-sim-setup", flag.ContinueOnError)
	node := flags.String("node", "node", "the node's name: UUIDs are made from it")
	gpus := flags.String("gpus", "a40:2", "TYPE:COUNT,…; types: "+strings.Join(typeNames(), ", "))
	dir := flags.String("dir", card.Dir(), "where the GPUs' folders go")
	residue := flags.Float64("residue-mib", 0, "what a sleeping engine leaves on each GPU")
	dialect := flags.String("dialect", "", "v11, v12 or v13; default: the first type's own driver")
	driver := flags.String("driver", "", "a driver version instead of a dialect")
	engine := pairs{}
	flags.Var(&engine, "engine", "key=value of engine.json; may be repeated")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	engine = append(pairs{fmt.Sprintf("residueMiB=%g", *residue)}, engine...)
	cards, err := plan(*node, *gpus, *dialect, *driver)
	if err == nil {
		err = write(*dir, cards, engine)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gpu-sim-setup:", err)
		return 1
	}
	for _, c := range cards {
		fmt.Println(c.UUID)
	}
	return 0
}

// pairs is a flag that may be repeated.
type pairs []string

func (p *pairs) String() string { return strings.Join(*p, " ") }

func (p *pairs) Set(value string) error {
	*p = append(*p, value)
	return nil
}

// plan is the list of a node's GPUs: `a40:2,t4:1`.
func plan(node, gpus, dialect, driver string) ([]*card.Card, error) {
	if dialect != "" {
		known := false
		if driver, known = Dialects[dialect]; !known {
			return nil, fmt.Errorf("--dialect %q: use v11, v12 or v13", dialect)
		}
	}
	cards := []*card.Card{}
	for _, group := range strings.Split(gpus, ",") {
		name, countText, hasCount := strings.Cut(strings.TrimSpace(group), ":")
		count := 1
		if hasCount {
			n, err := strconv.Atoi(countText)
			if err != nil || n < 1 {
				return nil, fmt.Errorf("--gpus %q: %q is not a count", gpus, countText)
			}
			count = n
		}
		if len(cards)+count > gpusMax {
			return nil, fmt.Errorf("--gpus %q: more than %d GPUs", gpus, gpusMax)
		}
		for range count {
			c, err := newCard(name, node, len(cards))
			if err != nil {
				return nil, err
			}
			cards = append(cards, c)
		}
	}
	if driver == "" {
		driver = cards[0].Driver // one machine has one driver
	}
	branch, _, _ := strings.Cut(driver, ".")
	for _, c := range cards {
		c.Driver = driver
		c.Cuda = cudaOf[branch]
		if c.Cuda == "" {
			c.Cuda = "N/A"
		}
	}
	return cards, nil
}

// uuidOf is the same for a node and an index on every run.
func uuidOf(node string, index int) string {
	sum := sha256.Sum256([]byte(fmt.Sprintf("greenthread simulated GPU %s %d", node, index)))
	return fmt.Sprintf("GPU-%x-%x-%x-%x-%x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

// write makes the folders, and leaves claims and logs that are there as they are.
func write(dir string, cards []*card.Card, engine []string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := copySelf(filepath.Join(dir, "nvidia-smi")); err != nil {
		return err
	}
	kept := map[string]bool{}
	for _, c := range cards {
		kept[c.UUID] = true
		if err := writeCard(filepath.Join(dir, c.UUID), c, engine); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), "GPU-") && !kept[entry.Name()] {
			if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// worldWritable are the files that engines of any user append to or lock; made here, so that no engine needs to make any.
var worldWritable = []string{"violations", "alloc.lock", "tokens.log", "tokens.log.1", "access.log", "access.log.1"}

func writeCard(folder string, c *card.Card, engine []string) error {
	claims := filepath.Join(folder, "claims")
	if err := os.MkdirAll(claims, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(claims, 0o777); err != nil {
		return err
	}
	for _, name := range worldWritable {
		path := filepath.Join(folder, name)
		file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
		if err != nil {
			return err
		}
		file.Close()
		if err := os.Chmod(path, 0o666); err != nil { // whatever the umask was
			return err
		}
	}
	values := map[string]any{}
	for key, value := range EngineDefaults {
		values[key] = value
	}
	for _, pair := range engine {
		if err := setPair(values, pair); err != nil {
			return err
		}
	}
	if err := card.WriteJSON(filepath.Join(folder, "engine.json"), values); err != nil {
		return err
	}
	return card.WriteJSON(filepath.Join(folder, "gpu.json"), c)
}

// copySelf puts this binary beside the GPUs, for the mount at /usr/bin/nvidia-smi.
func copySelf(path string) error {
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer from.Close()
	next := path + ".new"
	to, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err = io.Copy(to, from); err == nil {
		err = to.Close()
	}
	if err != nil {
		return err
	}
	return os.Rename(next, path)
}
