package smi

import (
	"fmt"
	"io"
	"time"

	"greenthread.ai/hack/gpu/card"
)

// nodeFault is a fault of the driver: every call fails, whichever GPU it names. Also where slow ones wait.
func nodeFault(out io.Writer, cards []*card.Card) int {
	for _, c := range cards {
		switch c.Fault {
		case "driver-mismatch":
			fmt.Fprintf(out, "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: %s\n", c.Driver)
			return exitDriverMismatch
		case "driver-not-loaded":
			fmt.Fprintln(out, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "+
				"Make sure that the latest NVIDIA driver is installed and running.")
			return exitDriver
		}
	}
	return exitOK
}

// handleFault is what opening one GPU costs, and what it says when it cannot be opened.
func handleFault(c *card.Card) (string, int) {
	time.Sleep(time.Duration(c.DelayMs) * time.Millisecond)
	device := "Unable to determine the device handle for GPU" + c.BusID[4:]
	switch c.Fault {
	case "hang":
		for {
			time.Sleep(time.Hour)
		}
	case "lost":
		return device + ": GPU is lost.  Reboot the system to recover this GPU", exitLost
	case "unknown-error":
		return device + ": Unknown Error", exitOther
	case "reset-required":
		return device + ": GPU requires reset", exitResetRequired
	}
	return "", exitOK
}

// present leaves out the GPUs that have vanished from the bus.
func present(cards []*card.Card) []*card.Card {
	left := []*card.Card{}
	for _, c := range cards {
		if c.Fault != "missing" {
			left = append(left, c)
		}
	}
	return left
}

// list is `nvidia-smi -L`: a sick GPU costs its own line alone.
func list(out io.Writer, cards []*card.Card) int {
	for i, c := range cards {
		if text, code := handleFault(c); code != exitOK {
			fmt.Fprintln(out, text)
			continue
		}
		fmt.Fprintf(out, "GPU %d: %s (UUID: %s)\n", i, c.Name, c.UUID)
	}
	return exitOK
}
