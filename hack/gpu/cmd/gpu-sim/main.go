// One static binary, told apart by the name it was called by: nvidia-smi, nvidia-container-runtime,
// gpu-sim-setup, gpu-sim-set, gpu-sim-hold (or `gpu-sim setup|set|hold|smi …`).
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"greenthread.ai/hack/gpu/bundle"
	"greenthread.ai/hack/gpu/setup"
	"greenthread.ai/hack/gpu/smi"
)

var programs = map[string]func(args []string) int{
	"nvidia-smi":               smi.Main,
	"nvidia-container-runtime": bundle.Main,
	"gpu-sim-setup":            setup.Main,
	"gpu-sim-set":              setup.SetMain,
	"gpu-sim-hold":             setup.HoldMain,
}

var verbs = map[string]string{
	"smi": "nvidia-smi", "setup": "gpu-sim-setup", "set": "gpu-sim-set", "hold": "gpu-sim-hold",
}

func main() {
	args := os.Args[1:]
	name := filepath.Base(os.Args[0])
	if name == "gpu-sim" && len(args) > 0 {
		name, args = verbs[args[0]], args[1:]
	}
	program, known := programs[name]
	if !known {
		fmt.Fprintln(os.Stderr, "usage: gpu-sim setup|set|hold|smi …")
		os.Exit(2)
	}
	os.Exit(program(args))
}
