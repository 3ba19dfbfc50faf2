package smi

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"greenthread.ai/hack/gpu/vram"
)

const tableWidth = 99

// writeTable is the picture that plain `nvidia-smi` prints, shortened to what people look for in it.
func writeTable(out io.Writer, readings []*Reading, now time.Time) {
	rule := "+" + strings.Repeat("-", tableWidth) + "+"
	row := func(format string, args ...any) {
		fmt.Fprintf(out, "|%-*.*s|\n", tableWidth, tableWidth, fmt.Sprintf(format, args...))
	}
	c := readings[0].card
	fmt.Fprintln(out, now.Format("Mon Jan _2 15:04:05 2006"))
	fmt.Fprintln(out, rule)
	row(" NVIDIA-SMI %-20s Driver Version: %-20s CUDA Version: %-10s", c.Driver, c.Driver, c.Cuda)
	fmt.Fprintln(out, rule)
	row(" GPU  Name                       Bus-Id              Temp  Perf   Memory-Usage          GPU-Util")
	fmt.Fprintln(out, rule)
	for _, r := range readings {
		row(" %3s  %-26s %-18s %4sC  %-5s %8sMiB / %6sMiB  %5s%%", r.value("index"), r.card.Name, r.card.BusID,
			r.value("temperature"), r.value("pstate"), r.value("memory_used"), r.value("memory_total"), r.value("gpu_util"))
	}
	fmt.Fprintln(out, rule)
	row(" Processes:  GPU        PID  Type  Process name                                  GPU Memory")
	found := false
	for _, r := range readings {
		for _, claim := range r.claims {
			if claim.Pid > 0 {
				found = true
				row("             %3s %10s     C  %-44s %7dMiB", r.value("index"), strconv.Itoa(claim.Pid), processName(claim.Pid), claim.Bytes/vram.MiB)
			}
		}
	}
	if !found {
		row("  No running processes found")
	}
	fmt.Fprintln(out, rule)
}
