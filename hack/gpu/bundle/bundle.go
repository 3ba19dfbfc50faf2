// Package bundle is nvidia-container-runtime for simulated GPUs: on create it adds mounts to the OCI bundle by
// NVIDIA_VISIBLE_DEVICES, then becomes runc. Containers get nvidia-smi and the folders of their GPUs, nothing else.
package bundle

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"greenthread.ai/hack/gpu/card"
)

// places are where runc is looked for when NVRT_RUNC does not name it.
var places = []string{"/usr/sbin/runc", "/usr/bin/runc", "/usr/local/sbin/runc"}

// Where a container finds what <dir>/libraries leads to: as the real runtime brings the driver's libraries in, so that an
// image need not hold gigabytes of them.
const (
	librariesName   = "libraries"
	librariesInside = "/usr/local/gpu-sim"
)

const (
	visible      = "NVIDIA_VISIBLE_DEVICES"
	capabilities = "NVIDIA_DRIVER_CAPABILITIES"
)

type mount struct {
	Destination string   `json:"destination"`
	Type        string   `json:"type"`
	Source      string   `json:"source"`
	Options     []string `json:"options"`
}

// Main is the program: runc's own command line.
func Main(args []string) int {
	folder, log, create := read(args)
	if create {
		if err := edit(filepath.Join(folder, "config.json")); err != nil {
			return fail(log, err)
		}
	}
	runc, err := findRunc()
	if err != nil {
		return fail(log, err)
	}
	err = syscall.Exec(runc, append([]string{runc}, args...), os.Environ())
	return fail(log, fmt.Errorf("exec %s: %w", runc, err))
}

// fail reports as runc does: containerd shows the last error line of the JSON log as the reason of a failed create.
func fail(log string, err error) int {
	fmt.Fprintln(os.Stderr, err)
	if log == "" {
		return 1
	}
	if file, openErr := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); openErr == nil {
		defer file.Close()
		_ = json.NewEncoder(file).Encode(map[string]string{"level": "error", "msg": err.Error()})
	}
	return 1
}

// read finds what matters in runc's command line.
func read(args []string) (folder, log string, create bool) {
	for i, arg := range args {
		name, value, attached := strings.Cut(arg, "=")
		if !attached && i+1 < len(args) {
			value = args[i+1]
		}
		switch name {
		case "create", "run":
			create = true
		case "--bundle", "-b":
			folder = value
		case "--log":
			log = value
		}
	}
	if folder == "" {
		folder = "."
	}
	return folder, log, create
}

func findRunc() (string, error) {
	if named := os.Getenv("NVRT_RUNC"); named != "" {
		return named, nil
	}
	for _, place := range places {
		if _, err := os.Stat(place); err == nil {
			return place, nil
		}
	}
	return "", fmt.Errorf("nvidia-container-runtime: no runc at %s; install it or set NVRT_RUNC", strings.Join(places, ", "))
}

// edit adds the mounts to config.json; everything else in it stays as it was.
func edit(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	spec := map[string]json.RawMessage{}
	if err := json.Unmarshal(text, &spec); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	process := struct {
		Env []string `json:"env"`
	}{}
	if raw, has := spec["process"]; has {
		if err := json.Unmarshal(raw, &process); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	added, err := mounts(variable(process.Env, visible), variable(process.Env, capabilities))
	if err != nil || len(added) == 0 {
		return err
	}
	all := []json.RawMessage{}
	if raw, has := spec["mounts"]; has {
		if err := json.Unmarshal(raw, &all); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	for _, m := range added {
		raw, err := json.Marshal(m)
		if err != nil {
			return err
		}
		all = append(all, raw)
	}
	if spec["mounts"], err = json.Marshal(all); err != nil {
		return err
	}
	return card.WriteJSON(path, spec)
}

// variable is the last value of a name in the environment, which is the one that runc keeps.
func variable(env []string, name string) string {
	value := ""
	for _, entry := range env {
		if v, found := strings.CutPrefix(entry, name+"="); found {
			value = v
		}
	}
	return value
}

// mounts are what a container gets for its devices; none for "", void and none.
func mounts(devices, driver string) ([]mount, error) {
	if devices == "" || devices == "void" || devices == "none" {
		return nil, nil
	}
	dir := card.Dir()
	cards, err := card.List(dir)
	if err != nil {
		return nil, err
	}
	chosen, err := choose(cards, devices)
	if err != nil {
		return nil, err
	}
	added := []mount{}
	if source, err := filepath.EvalSymlinks(filepath.Join(dir, librariesName)); err == nil && allows(driver, "compute") {
		added = append(added, mount{librariesInside, "bind", source, []string{"rbind", "ro", "nosuid", "nodev"}})
	}
	if allows(driver, "utility") {
		added = append(added, mount{"/usr/bin/nvidia-smi", "bind", filepath.Join(dir, "nvidia-smi"), []string{"rbind", "ro", "nosuid", "nodev"}})
	}
	for _, c := range chosen {
		inside := filepath.Join(card.DefaultDir, c.UUID)
		added = append(added, mount{inside, "bind", filepath.Join(dir, c.UUID), []string{"rbind", "rw", "nosuid", "nodev"}})
	}
	return added, nil
}

// allows says whether NVIDIA_DRIVER_CAPABILITIES names a capability; where it is not set all of these are given.
func allows(driver, capability string) bool {
	return driver == "" || driver == "all" || hasWord(driver, capability)
}

func hasWord(list, word string) bool {
	for _, w := range strings.Split(list, ",") {
		if strings.TrimSpace(w) == word {
			return true
		}
	}
	return false
}

// choose finds devices by UUID or index; a GPU that is not there is refused in the real tool's words.
func choose(cards []*card.Card, devices string) ([]*card.Card, error) {
	if devices == "all" {
		return cards, nil
	}
	chosen := []*card.Card{}
	seen := map[string]bool{}
	for _, id := range strings.Split(devices, ",") {
		id = strings.TrimSpace(id)
		found := false
		for i, c := range cards {
			if c.Fault != "missing" && (id == c.UUID || id == strconv.Itoa(i)) {
				found = true
				if !seen[c.UUID] {
					seen[c.UUID] = true
					chosen = append(chosen, c)
				}
			}
		}
		if !found {
			return nil, fmt.Errorf("nvidia-container-cli: device error: %s: unknown device", id)
		}
	}
	return chosen, nil
}
