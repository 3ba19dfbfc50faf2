package setup

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	"greenthread.ai/hack/gpu/card"
	"greenthread.ai/hack/gpu/vram"
)

const holdUsage = `usage: gpu-sim-hold [--force] UUID MIB               a stranger, until it is ended
       gpu-sim-hold --anonymous UUID COMMAND ARGS…   becomes COMMAND, whose own memory then counts as the GPU's`

// HoldMain is gpu-sim-hold.
func HoldMain(args []string) int {
	flags := flag.NewFlagSet("gpu-sim-hold", flag.ContinueOnError)
	force := flags.Bool("force", false, "take it even where it is not free")
	anonymous := flags.Bool("anonymous", false, "count the memory of a command's own")
	if err := flags.Parse(args); err != nil || flags.NArg() < 2 || !*anonymous && flags.NArg() != 2 {
		fmt.Fprintln(os.Stderr, holdUsage)
		return 2
	}
	folder := filepath.Join(card.Dir(), flags.Arg(0))
	if *anonymous {
		return failed(become(folder, flags.Args()[1:]))
	}
	mib, err := strconv.ParseInt(flags.Arg(1), 10, 64)
	if err != nil || mib < 0 {
		fmt.Fprintf(os.Stderr, "gpu-sim-hold: %q is not a count of MiB\n", flags.Arg(1))
		return 2
	}
	if err := vram.Hold(folder, mib*vram.MiB, *force); err != nil {
		return failed(err)
	}
	fmt.Printf("holding %d MiB of %s\n", mib, flags.Arg(0))
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	<-end
	return 0
}

func failed(err error) int {
	fmt.Fprintln(os.Stderr, "gpu-sim-hold:", err)
	return 1
}

// become claims what this process maps and then is the command: locks outlive an exec.
func become(folder string, command []string) error {
	path, err := exec.LookPath(command[0])
	if err != nil {
		return err
	}
	if err := vram.HoldMapped(folder); err != nil {
		return err
	}
	return syscall.Exec(path, command, os.Environ())
}
