// Package card is one simulated GPU: the folder that stands for it and what gpu.json in that folder says.
package card

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// DefaultDir holds one folder per GPU, named by UUID, on a simulated node and in its containers.
const DefaultDir = "/run/gpu-sim"

// fileBytesMax bounds what is read of one gpu.json.
const fileBytesMax = 1 << 20

// Card is gpu.json. Sizes are MiB as nvidia-smi prints them; a fault is one word, see Faults.
type Card struct {
	Index        int    `json:"index"`
	UUID         string `json:"uuid"`
	Type         string `json:"type"`
	Name         string `json:"name"`
	Brand        string `json:"brand"`
	Architecture string `json:"architecture"`
	BusID        string `json:"busId"`
	Driver       string `json:"driver"`
	Cuda         string `json:"cuda"`

	TotalMiB    int64 `json:"totalMiB"`
	ReservedMiB int64 `json:"reservedMiB"` // the driver's own share: never free, never used
	BaseMiB     int64 `json:"baseMiB"`     // what a GPU without processes shows as used

	Fault   string `json:"fault"`   // see Faults; empty: none
	DelayMs int    `json:"delayMs"` // every nvidia-smi call that touches this GPU takes this much longer

	RecoveryAction string `json:"recoveryAction"` // None, Reset, Reboot, Drain P2P, Drain and Reset
	ResetRequired  string `json:"resetRequired"`  // No, Yes (drivers before 570)
	EccMode        string `json:"eccMode"`        // Enabled, Disabled, N/A

	EccVolatileCorrectable      int64 `json:"eccVolatileCorrectable"`
	EccVolatileUncorrectable    int64 `json:"eccVolatileUncorrectable"` // DRAM
	EccVolatileSramUncorrected  int64 `json:"eccVolatileSramUncorrectable"`
	EccAggregateCorrectable     int64 `json:"eccAggregateCorrectable"`
	EccAggregateUncorrectable   int64 `json:"eccAggregateUncorrectable"`
	EccAggregateSramUncorrected int64 `json:"eccAggregateSramUncorrectable"`

	SramThresholdExceeded string `json:"sramThresholdExceeded"` // No, Yes
	ChannelRepairPending  string `json:"channelRepairPending"`
	TpcRepairPending      string `json:"tpcRepairPending"`
	UnrepairableMemory    string `json:"unrepairableMemory"`

	RemappedRows        bool   `json:"remappedRows"` // the card can remap rows at all (Ampere and newer, with ECC)
	RemappedCorrectable int64  `json:"remappedCorrectable"`
	RemappedUncorrected int64  `json:"remappedUncorrectable"`
	RemapPending        string `json:"remapPending"` // No, Yes
	RemapFailure        string `json:"remapFailure"`

	RetiredPages      bool   `json:"retiredPages"` // the card retires pages (before Ampere, with ECC)
	RetiredSingleBit  int64  `json:"retiredSingleBit"`
	RetiredDoubleBit  int64  `json:"retiredDoubleBit"`
	RetirementPending string `json:"retirementPending"`

	TemperatureC      int     `json:"temperatureC"`
	HwThermalSlowdown string  `json:"hwThermalSlowdown"` // Not Active, Active
	HwPowerBrake      string  `json:"hwPowerBrake"`      // Not Active, Active
	PersistenceMode   string  `json:"persistenceMode"`   // Enabled, Disabled, N/A
	MigMode           string  `json:"migMode"`           // N/A, Disabled, Enabled
	LegacyEcc         bool    `json:"legacyEcc"`         // Pascal and older: single and double bit counters
	PowerLimitW       float64 `json:"powerLimitW"`
	PowerIdleW        float64 `json:"powerIdleW"`

	// Facts are further values by variable of smi/document.outline (vbios, part, clocks, …); absent ones print N/A.
	Facts map[string]string `json:"facts,omitempty"`
	// XML replaces the text of any element, by its path below <gpu> (`fabric/state`), for what has no field above.
	XML map[string]string `json:"xml,omitempty"`
}

// Faults are the words of Card.Fault, and what nvidia-smi does with each.
var Faults = map[string]string{
	"":                  "none",
	"lost":              "GPU is lost: exit 15 for every call that touches it",
	"unknown-error":     "no device handle, Unknown Error: exit 255",
	"reset-required":    "no device handle, GPU requires reset: exit 16",
	"missing":           "not listed at all; the indices of later GPUs move down",
	"hang":              "the call never returns",
	"driver-mismatch":   "exit 18 for every call on the node",
	"driver-not-loaded": "exit 9 for every call on the node",
	"empty":             "exit 0 and no output",
	"truncated":         "exit 0 and half of the output",
}

// Dir is where the GPUs are: GPU_SIM_DIR, else DefaultDir.
func Dir() string {
	if dir := os.Getenv("GPU_SIM_DIR"); dir != "" {
		return dir
	}
	return DefaultDir
}

// DriverMajor is the driver's branch, which decides the shape of nvidia-smi's output.
func (c *Card) DriverMajor() int {
	major, _, _ := strings.Cut(c.Driver, ".")
	n, err := strconv.Atoi(major)
	if err != nil {
		return 0
	}
	return n
}

// List reads every GPU below dir in the order of bus ids (as CUDA and nvidia-smi order them).
func List(dir string) ([]*Card, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	cards := []*Card{}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), "GPU-") {
			continue
		}
		c, err := Load(filepath.Join(dir, entry.Name()))
		if err != nil {
			return nil, err
		}
		cards = append(cards, c)
	}
	sort.Slice(cards, func(i, j int) bool { return cards[i].BusID < cards[j].BusID })
	return cards, nil
}

// Load reads one GPU's folder.
func Load(folder string) (*Card, error) {
	text, err := os.ReadFile(filepath.Join(folder, "gpu.json"))
	if err != nil {
		return nil, err
	}
	if len(text) > fileBytesMax {
		return nil, fmt.Errorf("%s/gpu.json is larger than %d bytes", folder, fileBytesMax)
	}
	c := &Card{}
	if err := json.Unmarshal(text, c); err != nil {
		return nil, fmt.Errorf("%s/gpu.json: %w", folder, err)
	}
	if _, known := Faults[c.Fault]; !known {
		return nil, fmt.Errorf("%s/gpu.json: fault %q is none of those in hack/gpu/README.md", folder, c.Fault)
	}
	return c, nil
}

// WriteJSON replaces a file as a whole, so that a reader never sees half of it.
func WriteJSON(path string, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	next := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.WriteFile(next, append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(next, path)
}
