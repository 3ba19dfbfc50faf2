package smi

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"greenthread.ai/hack/gpu/vram"
)

// format is what --format asks for.
type format struct{ header, units bool }

// parseFormat reads `csv[,noheader][,nounits]`.
func parseFormat(text string) (format, error) {
	f := format{header: true, units: true}
	words := strings.Split(text, ",")
	if words[0] != "csv" {
		return f, fmt.Errorf("\"--format=%s\" is not supported", text)
	}
	for _, word := range words[1:] {
		switch strings.TrimSpace(word) {
		case "noheader":
			f.header = false
		case "nounits":
			f.units = false
		default:
			return f, fmt.Errorf("\"--format=%s\" is not supported", text)
		}
	}
	return f, nil
}

// unknownField is the real program's sentence, on standard output, exit 2.
func unknownField(name string) string {
	return fmt.Sprintf("Field %q is not a valid field to query.\n", name)
}

func (f format) head(out io.Writer, columns []field) {
	if !f.header {
		return
	}
	names := []string{}
	for _, c := range columns {
		if c.unit != "" {
			names = append(names, c.name+" ["+c.unit+"]")
		} else {
			names = append(names, c.name)
		}
	}
	fmt.Fprintln(out, strings.Join(names, ", "))
}

// cell is one value: unknown in brackets, else with its unit.
func (f format) cell(value, unit string, driver int) string {
	switch {
	case value == "N/A" && driver < 450:
		return "[Not Supported]"
	case value == "N/A":
		return "[N/A]"
	case value == deprecatedText:
		return "[" + deprecatedText + "]"
	case unit == "" || !f.units:
		return value
	}
	if _, err := strconv.ParseFloat(value, 64); err != nil {
		return value
	}
	return value + " " + unit
}

// writeGpus prints --query-gpu.
func (f format) writeGpus(out io.Writer, columns []field, readings []*Reading, attached int, now time.Time) {
	f.head(out, columns)
	for _, r := range readings {
		r.values["timestamp"] = now.Format("2006/01/02 15:04:05.000")
		r.values["count"] = strconv.Itoa(attached)
		cells := []string{}
		for _, c := range columns {
			cells = append(cells, f.cell(r.expand(c.text), c.unit, r.card.DriverMajor()))
		}
		fmt.Fprintln(out, strings.Join(cells, ", "))
	}
}

// writeApps prints --query-compute-apps: processes of this pid namespace alone.
func (f format) writeApps(out io.Writer, columns []field, readings []*Reading, now time.Time) {
	f.head(out, columns)
	for _, r := range readings {
		for _, claim := range r.claims {
			if claim.Pid <= 0 {
				continue
			}
			row := map[string]string{
				"pid": strconv.Itoa(claim.Pid), "process_name": processName(claim.Pid),
				"used": strconv.FormatInt(claim.Bytes/vram.MiB, 10), "timestamp": now.Format("2006/01/02 15:04:05.000"),
			}
			cells := []string{}
			for _, c := range columns {
				value, own := row[c.text]
				if !own {
					value = r.value(c.text)
				}
				cells = append(cells, f.cell(value, c.unit, r.card.DriverMajor()))
			}
			fmt.Fprintln(out, strings.Join(cells, ", "))
		}
	}
}

// processName is what the real one prints: the program's path, else the process' title.
func processName(pid int) string {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	name, _, _ := strings.Cut(string(line), "\x00")
	if err != nil || name == "" {
		return "[Not Found]"
	}
	return name
}
