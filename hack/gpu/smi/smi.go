// Package smi answers as nvidia-smi does, from the folders of simulated GPUs.
package smi

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"greenthread.ai/hack/gpu/card"
)

// Exit codes are nvmlReturn_t, as the man page lists them.
const (
	exitOK             = 0
	exitArgument       = 2
	exitUnsupported    = 3
	exitNotFound       = 6
	exitDriver         = 9
	exitLost           = 15
	exitResetRequired  = 16
	exitDriverMismatch = 18
	exitOther          = 255
)

const invalidArguments = "Invalid combination of input arguments. Please run 'nvidia-smi -h' for help.\n"

// options of one call.
type options struct {
	list, query, xml   bool
	ids                []string
	gpuQuery, appQuery string
	format             string
	loop               time.Duration
}

// Main runs nvidia-smi; messages go to standard output, as the real one prints them.
func Main(args []string) int {
	opts, text, code := parse(args)
	if code != exitOK || text != "" {
		fmt.Print(text)
		return code
	}
	for {
		out := &bytes.Buffer{}
		code := answer(out, opts)
		if _, err := os.Stdout.Write(out.Bytes()); err != nil {
			return exitOther
		}
		if opts.loop == 0 || code != exitOK {
			return code
		}
		time.Sleep(opts.loop)
	}
}

// parse reads the command line; a text or code other than 0 ends the call.
func parse(args []string) (options, string, int) {
	opts := options{}
	next := func(i *int, attached string, isAttached bool) (string, bool) {
		if isAttached {
			return attached, true
		}
		if *i+1 >= len(args) {
			return "", false
		}
		*i++
		return args[*i], true
	}
	for i := 0; i < len(args); i++ {
		name, attached, isAttached := strings.Cut(args[i], "=")
		value, ok := "", true
		switch name {
		case "-L", "--list-gpus":
			opts.list = true
		case "-q", "--query":
			opts.query = true
		case "-x", "--xml-format":
			opts.xml = true
		case "-h", "--help":
			return opts, "nvidia-smi [-L] [-q -x] [-i ID,…] [--query-gpu=… | --query-compute-apps=…] [--format=csv[,noheader][,nounits]] [-l SEC | -lms MS]\n", exitOK
		case "-i", "--id":
			value, ok = next(&i, attached, isAttached)
			opts.ids = strings.Split(value, ",")
		case "--query-gpu":
			opts.gpuQuery, ok = next(&i, attached, isAttached)
		case "--query-compute-apps":
			opts.appQuery, ok = next(&i, attached, isAttached)
		case "--format":
			opts.format, ok = next(&i, attached, isAttached)
		case "-l", "--loop", "-lms", "--loop-ms":
			value, ok = next(&i, attached, isAttached)
			n, err := strconv.Atoi(value)
			ok = ok && err == nil && n > 0
			opts.loop = time.Duration(n) * time.Second
			if strings.HasSuffix(name, "ms") {
				opts.loop = time.Duration(n) * time.Millisecond
			}
		case "dmon", "pmon", "topo", "mig", "nvlink", "--gpu-reset", "-r", "-pm":
			return opts, "This simulated GPU does not support " + name + ".\n", exitUnsupported
		default:
			ok = false
		}
		if !ok {
			return opts, invalidArguments, exitArgument
		}
	}
	if (opts.gpuQuery != "" || opts.appQuery != "") && opts.format == "" {
		return opts, "\"--format=\" switch is missing. Please run 'nvidia-smi -h' for help.\n", exitArgument
	}
	if opts.query != opts.xml {
		return opts, invalidArguments, exitArgument // the readable -q is not simulated
	}
	return opts, "", exitOK
}

// answer carries out one call.
func answer(out *bytes.Buffer, opts options) int {
	dir := card.Dir()
	cards, err := card.List(dir)
	if err != nil {
		fmt.Fprintln(out, "simulated GPU:", err)
		return exitOther
	}
	if code := nodeFault(out, cards); code != exitOK {
		return code
	}
	cards = present(cards)
	if len(cards) == 0 {
		fmt.Fprintln(out, "No devices were found")
		return exitNotFound
	}
	if opts.list {
		return list(out, cards)
	}
	shown, code := choose(out, cards, opts.ids)
	if code != exitOK {
		return code
	}
	readings, code := readAll(out, dir, cards, shown)
	if code != exitOK {
		return code
	}
	code = print(out, opts, readings, len(cards))
	for _, r := range readings {
		switch r.card.Fault {
		case "empty":
			out.Reset()
		case "truncated":
			out.Truncate(out.Len() / 2)
		}
	}
	return code
}

func print(out io.Writer, opts options, readings []*Reading, attached int) int {
	now := time.Now()
	driver := readings[0].card.DriverMajor()
	switch {
	case opts.query:
		WriteXML(out, readings, attached, now)
		return exitOK
	case opts.gpuQuery == "" && opts.appQuery == "":
		writeTable(out, readings, now)
		return exitOK
	}
	f, err := parseFormat(opts.format)
	if err != nil {
		fmt.Fprintf(out, "%s. Please run 'nvidia-smi -h' for help.\n", err)
		return exitArgument
	}
	known, query := gpuFields, opts.gpuQuery
	if query == "" {
		known, query = appFields, opts.appQuery
	}
	columns, unknown := pick(known, query, driver)
	if columns == nil {
		fmt.Fprint(out, unknownField(unknown))
		return exitArgument
	}
	if opts.gpuQuery != "" {
		f.writeGpus(out, columns, readings, attached, now)
	} else {
		f.writeApps(out, columns, readings, now)
	}
	return exitOK
}

// choose applies -i: index in the listing, UUID or bus id.
func choose(out io.Writer, cards []*card.Card, ids []string) ([]*card.Card, int) {
	if len(ids) == 0 {
		return cards, exitOK
	}
	shown := []*card.Card{}
	for _, id := range ids {
		found := false
		for i, c := range cards {
			if id == strconv.Itoa(i) || strings.EqualFold(id, c.UUID) || sameBus(id, c.BusID) {
				shown, found = append(shown, c), true
			}
		}
		if !found {
			fmt.Fprintln(out, "No devices were found")
			return nil, exitNotFound
		}
	}
	return shown, exitOK
}

// sameBus compares bus ids whose domain may have 4 or 8 digits.
func sameBus(a, b string) bool {
	return strings.EqualFold(a, b) || len(b) > 4 && strings.EqualFold(a, b[4:])
}

func readAll(out *bytes.Buffer, dir string, cards, shown []*card.Card) ([]*Reading, int) {
	readings := []*Reading{}
	for i, c := range cards {
		wanted := false
		for _, s := range shown {
			wanted = wanted || s == c
		}
		if !wanted {
			continue
		}
		if text, code := handleFault(c); code != exitOK {
			out.Reset() // one sick GPU voids the whole call
			fmt.Fprintln(out, text)
			return nil, code
		}
		r, err := Read(dir, c, i)
		if err != nil {
			fmt.Fprintln(out, "simulated GPU:", err)
			return nil, exitOther
		}
		readings = append(readings, r)
	}
	return readings, exitOK
}
