package smi

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"greenthread.ai/hack/gpu/card"
	"greenthread.ai/hack/gpu/vram"
)

// deprecatedText stands where newer drivers keep an element without its meaning.
const deprecatedText = "Requested functionality has been deprecated"

// busyFor is how long after a token a GPU counts as busy.
const busyFor = time.Second

// Reading is one GPU at one moment: what it says and who holds its memory.
type Reading struct {
	card   *card.Card
	claims []vram.Claim
	values map[string]string
}

// Read measures a GPU; position is its place in the listing, which is the index nvidia-smi prints.
func Read(dir string, c *card.Card, position int) (*Reading, error) {
	claims, err := vram.Live(filepath.Join(dir, c.UUID))
	if err != nil {
		return nil, err
	}
	r := &Reading{card: c, claims: claims, values: map[string]string{}}
	for name, value := range c.Facts {
		r.values[name] = value
	}
	r.identity(position)
	r.memory()
	r.load(dir)
	r.health()
	return r, nil
}

// value of a variable; what a card does not know is N/A, as the real one prints it.
func (r *Reading) value(name string) string {
	if value, known := r.values[name]; known && value != "" {
		return value
	}
	return "N/A"
}

// expand fills {names} into a text; a unit after an unknown value goes away: "N/A", never "N/A MiB".
func (r *Reading) expand(text string) string {
	for {
		start := strings.IndexByte(text, '{')
		end := strings.IndexByte(text, '}')
		if start < 0 || end < start {
			return text
		}
		value := r.value(text[start+1 : end])
		if value == "N/A" {
			return value
		}
		text = text[:start] + value + text[end+1:]
	}
}

func (r *Reading) identity(position int) {
	c := r.card
	bus := strings.FieldsFunc(c.BusID, func(s rune) bool { return s == ':' || s == '.' })
	for name, value := range map[string]string{
		"name": c.Name, "brand": c.Brand, "architecture": c.Architecture, "uuid": c.UUID,
		"index": strconv.Itoa(position), "bus_id": c.BusID, "driver": c.Driver, "cuda": c.Cuda,
		"persistence": c.PersistenceMode, "mig": c.MigMode, "deprecated": deprecatedText,
		"recovery_action": c.RecoveryAction, "reset_required": c.ResetRequired,
	} {
		r.values[name] = value
	}
	if len(bus) == 4 {
		r.values["bus"], r.values["bus_device"] = bus[1], bus[2]
		r.values["board_id"] = "0x" + strings.ToLower(bus[1]) + "00"
	}
	if c.Architecture != "Pascal" && c.DriverMajor() >= 570 {
		r.values["gsp"] = c.Driver
	}
}

func (r *Reading) memory() {
	c := r.card
	used := c.BaseMiB + (vram.Sum(r.claims)+vram.MiB-1)/vram.MiB
	reserved := c.ReservedMiB
	if c.DriverMajor() < 515 { // until then `used` included what the driver keeps
		used += reserved
		reserved = 0
	}
	free := max(0, c.TotalMiB-reserved-used)
	r.values["memory_total"] = strconv.FormatInt(c.TotalMiB, 10)
	r.values["memory_reserved"] = strconv.FormatInt(reserved, 10)
	r.values["memory_used"] = strconv.FormatInt(used, 10)
	r.values["memory_free"] = strconv.FormatInt(free, 10)
	if bar, err := strconv.Atoi(r.values["bar1_total"]); err == nil {
		r.values["bar1_free"] = strconv.Itoa(bar - 1)
	}
}

// load is busy while tokens are being logged.
func (r *Reading) load(dir string) {
	c := r.card
	info, err := os.Stat(filepath.Join(dir, c.UUID, "tokens.log"))
	busy := err == nil && info.Size() > 0 && time.Since(info.ModTime()) < busyFor
	set := map[string]string{"gpu_util": "0", "memory_util": "0", "pstate": "P8", "idle": "Active"}
	power, clock := c.PowerIdleW, "min"
	if busy {
		set = map[string]string{"gpu_util": "93", "memory_util": "41", "pstate": "P0", "idle": "Not Active"}
		power, clock = 0.9*c.PowerLimitW, "max"
	}
	for name, value := range set {
		r.values[name] = value
	}
	r.values["power"] = fmt.Sprintf("%.2f", power)
	r.values["power_limit"] = fmt.Sprintf("%.2f", c.PowerLimitW)
	r.values["power_min"] = fmt.Sprintf("%.2f", 0.4*c.PowerLimitW)
	r.values["temperature"] = strconv.Itoa(c.TemperatureC)
	for _, unit := range []string{"graphics", "sm", "mem", "video"} {
		r.values["clock_"+unit] = r.values["clock_"+unit+"_"+clock]
	}
}

func (r *Reading) health() {
	c := r.card
	count := func(n int64) string { return strconv.FormatInt(n, 10) }
	r.values["hw_thermal"], r.values["hw_brake"] = c.HwThermalSlowdown, c.HwPowerBrake
	r.values["hw_slowdown"] = "Not Active"
	if c.HwThermalSlowdown == "Active" || c.HwPowerBrake == "Active" {
		r.values["hw_slowdown"] = "Active"
	}
	r.values["ecc_mode"] = c.EccMode
	r.values["channel_repair_pending"], r.values["tpc_repair_pending"] = c.ChannelRepairPending, c.TpcRepairPending
	r.values["unrepairable_memory"] = c.UnrepairableMemory
	if c.EccMode == "Enabled" {
		for name, value := range map[string]string{
			"ecc_zero":         "0",
			"ecc_volatile_cor": count(c.EccVolatileCorrectable), "ecc_volatile_unc": count(c.EccVolatileUncorrectable),
			"ecc_volatile_sram_unc": count(c.EccVolatileSramUncorrected),
			"ecc_aggregate_cor":     count(c.EccAggregateCorrectable), "ecc_aggregate_unc": count(c.EccAggregateUncorrectable),
			"ecc_aggregate_sram_unc": count(c.EccAggregateSramUncorrected), "sram_threshold": c.SramThresholdExceeded,
			"ecc_volatile_total_unc":  count(c.EccVolatileUncorrectable + c.EccVolatileSramUncorrected),
			"ecc_aggregate_total_unc": count(c.EccAggregateUncorrectable + c.EccAggregateSramUncorrected),
		} {
			r.values[name] = value
		}
	}
	if c.RemappedRows {
		r.values["remapped_correctable"], r.values["remapped_uncorrectable"] = count(c.RemappedCorrectable), count(c.RemappedUncorrected)
		r.values["remap_pending"], r.values["remap_failure"] = c.RemapPending, c.RemapFailure
	}
	if c.RetiredPages {
		r.values["retired_single"], r.values["retired_double"] = count(c.RetiredSingleBit), count(c.RetiredDoubleBit)
		r.values["retirement_pending"], r.values["retired_pagelist"] = c.RetirementPending, " "
	}
}
