package smi

import (
	_ "embed"
	"encoding/xml"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"greenthread.ai/hack/gpu/vram"
)

//go:embed document.outline
var outline string

// element is one line of the outline and those below it.
type element struct {
	name, text string
	hasText    bool
	when       condition
	children   []*element
}

// condition says for which drivers and cards an element exists.
type condition struct {
	from, to int // driver branches, inclusive
	traits   []string
}

const newestDriver = 9999

func parseCondition(text string) condition {
	c := condition{to: newestDriver}
	for _, word := range strings.Fields(text) {
		from, to, isRange := strings.Cut(word, "-")
		if !isRange {
			c.traits = append(c.traits, word)
			continue
		}
		if from != "" {
			c.from, _ = strconv.Atoi(from)
		}
		if to != "" {
			c.to, _ = strconv.Atoi(to)
		}
	}
	return c
}

func (c condition) holds(r *Reading) bool {
	if driver := r.card.DriverMajor(); driver < c.from || driver > c.to {
		return false
	}
	has := map[string]bool{"remap": r.card.RemappedRows, "legacyecc": r.card.LegacyEcc}
	for _, trait := range c.traits {
		name, negated := strings.CutPrefix(trait, "!")
		if has[name] == negated {
			return false
		}
	}
	return true
}

// parseOutline reads document.outline into the children of <gpu>.
func parseOutline(text string) []*element {
	root := &element{}
	path := []*element{root}
	for _, line := range strings.Split(text, "\n") {
		body := strings.TrimLeft(line, " ")
		if body == "" || strings.HasPrefix(body, "#") {
			continue
		}
		depth := (len(line) - len(body)) / 2
		body, when, _ := strings.Cut(body, "  @ ")
		name, value, hasText := strings.Cut(body, " =")
		e := &element{name: strings.TrimSpace(name), text: strings.TrimSpace(value), hasText: hasText, when: parseCondition(when)}
		parent := path[depth]
		parent.children = append(parent.children, e)
		path = append(path[:depth+1], e)
	}
	return root.children
}

// WriteXML prints the document of `nvidia-smi -q -x`; attached counts all GPUs of the machine, shown or not.
func WriteXML(out io.Writer, readings []*Reading, attached int, now time.Time) {
	driver, cuda, major := "N/A", "N/A", 0
	if len(readings) > 0 {
		c := readings[0].card
		driver, cuda, major = c.Driver, c.Cuda, c.DriverMajor()
	}
	fmt.Fprintln(out, `<?xml version="1.0" ?>`)
	if schema := schemaOf(major); schema != "" {
		fmt.Fprintf(out, "<!DOCTYPE nvidia_smi_log SYSTEM \"nvsmi_device_%s.dtd\">\n", schema)
	}
	fmt.Fprintln(out, "<nvidia_smi_log>")
	for _, header := range [][2]string{
		{"timestamp", now.Format("Mon Jan _2 15:04:05 2006")}, {"driver_version", driver}, {"cuda_version", cuda},
		{"attached_gpus", strconv.Itoa(attached)},
	} {
		fmt.Fprintf(out, "\t<%s>%s</%s>\n", header[0], escape(header[1]), header[0])
	}
	tree := parseOutline(outline)
	for _, r := range readings {
		fmt.Fprintf(out, "\t<gpu id=%q>\n", r.card.BusID)
		for _, e := range tree {
			e.write(out, r, "", 2)
		}
		fmt.Fprint(out, "\t</gpu>\n\n")
	}
	fmt.Fprintln(out, "</nvidia_smi_log>")
}

// schemaOf names the document type that a driver branch prints; the oldest print none.
func schemaOf(major int) string {
	switch {
	case major < 450:
		return ""
	case major < 520:
		return "v11"
	case major < 580:
		return "v12"
	default:
		return "v13"
	}
}

func (e *element) write(out io.Writer, r *Reading, parent string, depth int) {
	if !e.when.holds(r) {
		return
	}
	indent := strings.Repeat("\t", depth)
	path := strings.TrimPrefix(parent+"/"+e.name, "/")
	if override, changed := r.card.XML[path]; changed {
		fmt.Fprintf(out, "%s<%s>%s</%s>\n", indent, e.name, escape(override), e.name)
		return
	}
	if e.hasText && e.text != "{processes}" && e.text != "" {
		fmt.Fprintf(out, "%s<%s>%s</%s>\n", indent, e.name, escape(r.expand(e.text)), e.name)
		return
	}
	fmt.Fprintf(out, "%s<%s>\n", indent, e.name)
	if e.text == "{processes}" {
		writeProcesses(out, r, indent+"\t")
	}
	for _, child := range e.children {
		child.write(out, r, path, depth+1)
	}
	fmt.Fprintf(out, "%s</%s>\n", indent, e.name)
}

func writeProcesses(out io.Writer, r *Reading, indent string) {
	for _, claim := range r.claims {
		if claim.Pid <= 0 {
			continue // not in this pid namespace: the memory counts, the process cannot be named
		}
		fields := [][2]string{
			{"gpu_instance_id", "N/A"}, {"compute_instance_id", "N/A"}, {"pid", strconv.Itoa(claim.Pid)}, {"type", "C"},
			{"process_name", processName(claim.Pid)}, {"used_memory", fmt.Sprintf("%d MiB", claim.Bytes/vram.MiB)},
		}
		if r.card.DriverMajor() < 515 {
			fields = fields[2:]
		}
		fmt.Fprintf(out, "%s<process_info>\n", indent)
		for _, f := range fields {
			fmt.Fprintf(out, "%s\t<%s>%s</%s>\n", indent, f[0], escape(f[1]), f[0])
		}
		fmt.Fprintf(out, "%s</process_info>\n", indent)
	}
}

func escape(text string) string {
	b := &strings.Builder{}
	if err := xml.EscapeText(b, []byte(text)); err != nil {
		return ""
	}
	return b.String()
}
