package setup

import (
	"fmt"
	"sort"
	"strings"

	"greenthread.ai/hack/gpu/card"
)

// cardTypes are the GPUs that can be had; figures as nvidia-smi shows them on such cards.
var cardTypes = map[string]card.Card{
	"a40": {
		Name: "NVIDIA A40", Brand: "NVIDIA", Architecture: "Ampere", Driver: "595.58.03", TotalMiB: 49140, ReservedMiB: 594, BaseMiB: 4,
		EccMode: "Enabled", RemappedRows: true, PersistenceMode: "Enabled", PowerLimitW: 300, PowerIdleW: 31, TemperatureC: 34,
		Facts: facts("2235", "8.6", 2100, 9501, "94.02.5C.00.03 G133.0200.00.05"),
	},
	"a10g": {
		Name: "NVIDIA A10G", Brand: "NVIDIA", Architecture: "Ampere", Driver: "515.105.01", TotalMiB: 23028, ReservedMiB: 435, BaseMiB: 2,
		EccMode: "Enabled", RemappedRows: true, PersistenceMode: "Disabled", PowerLimitW: 300, PowerIdleW: 25, TemperatureC: 17,
		Facts: facts("2237", "8.6", 1710, 6251, "94.02.75.00.01 G133.0210.00.04"),
	},
	"t4": {
		Name: "Tesla T4", Brand: "NVIDIA", Architecture: "Turing", Driver: "515.105.01", TotalMiB: 15360, ReservedMiB: 388, BaseMiB: 2,
		EccMode: "Enabled", RetiredPages: true, PersistenceMode: "Disabled", PowerLimitW: 70, PowerIdleW: 13, TemperatureC: 40,
		Facts: facts("1EB8", "7.5", 1590, 5001, "90.04.84.00.06 G183.0200.00.02"),
	},
	"gtx-1660-ti": {
		Name: "NVIDIA GeForce GTX 1660 Ti", Brand: "GeForce", Architecture: "Turing", Driver: "418.43", TotalMiB: 5912, ReservedMiB: 0, BaseMiB: 0,
		EccMode: "N/A", PersistenceMode: "Disabled", PowerLimitW: 130, PowerIdleW: 9, TemperatureC: 40,
		Facts: facts("2182", "7.5", 2145, 4001, "90.16.25.00.4C G001.0000.02.04"),
	},
	"quadro-p2000": {
		Name: "Quadro P2000", Brand: "Quadro", Architecture: "Pascal", Driver: "525.125.06", TotalMiB: 5120, ReservedMiB: 66, BaseMiB: 1,
		EccMode: "N/A", LegacyEcc: true, PersistenceMode: "Enabled", PowerLimitW: 75, PowerIdleW: 5, TemperatureC: 34,
		Facts: facts("1C30", "6.1", 1721, 3504, "86.06.3F.00.30 G410.0502.00.02"),
	},
	"rtx-3080": {
		Name: "NVIDIA GeForce RTX 3080", Brand: "GeForce", Architecture: "Ampere", Driver: "595.58.03", TotalMiB: 10240, ReservedMiB: 397, BaseMiB: 1,
		EccMode: "N/A", PersistenceMode: "Disabled", PowerLimitW: 320, PowerIdleW: 23, TemperatureC: 31,
		Facts: facts("2216", "8.6", 2100, 9501, "94.02.71.40.72 G001.0000.03.03"),
	},
	"rtx-3060": {
		Name: "NVIDIA GeForce RTX 3060", Brand: "GeForce", Architecture: "Ampere", Driver: "570.124.04", TotalMiB: 12288, ReservedMiB: 368, BaseMiB: 1,
		EccMode: "N/A", PersistenceMode: "Enabled", PowerLimitW: 170, PowerIdleW: 12, TemperatureC: 42,
		Facts: facts("2487", "8.6", 2145, 7501, "94.04.71.00.69 G001.0000.03.03"),
	},
}

// facts of a card: PCI device, compute capability, highest clocks in MHz, "vbios inforom".
func facts(device, capability string, graphics, memory int, firmware string) map[string]string {
	vbios, inforom, _ := strings.Cut(firmware, " ")
	mhz := func(n int) string { return fmt.Sprint(n) }
	return map[string]string{
		"device_id": device + "10DE", "subsystem_id": "000010DE", "compute_cap": capability, "pcie_gen": "4", "bar1_total": "256",
		"vbios": vbios, "inforom": inforom, "inforom_oem": "2.0",
		"temperature_max": "98", "temperature_slow": "95", "temperature_max_gpu": "88",
		"clock_graphics_max": mhz(graphics), "clock_sm_max": mhz(graphics), "clock_mem_max": mhz(memory), "clock_video_max": "1500",
		"clock_graphics_min": "210", "clock_sm_min": "210", "clock_mem_min": "405", "clock_video_min": "555",
	}
}

func typeNames() []string {
	names := []string{}
	for name := range cardTypes {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// newCard is a healthy GPU of a type, at an index of a node.
func newCard(kind, node string, index int) (*card.Card, error) {
	c, known := cardTypes[kind]
	if !known {
		return nil, fmt.Errorf("--gpus: no GPU type %q; there are %s", kind, strings.Join(typeNames(), ", "))
	}
	c.Type, c.Index, c.UUID = kind, index, uuidOf(node, index)
	c.BusID = fmt.Sprintf("00000000:%02X:00.0", 0x10+index)
	c.RecoveryAction, c.ResetRequired, c.MigMode = "None", "No", "N/A"
	c.HwThermalSlowdown, c.HwPowerBrake = "Not Active", "Not Active"
	if c.RemappedRows {
		c.RemapPending, c.RemapFailure = "No", "No"
		c.ChannelRepairPending, c.TpcRepairPending, c.UnrepairableMemory = "No", "No", "No"
	}
	if c.EccMode == "Enabled" {
		c.SramThresholdExceeded = "No"
	}
	if c.RetiredPages {
		c.RetirementPending = "No"
	}
	return &c, nil
}
