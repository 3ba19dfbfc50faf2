package smi

import "strings"

// field is one column of a query: its header, the text it expands to, its unit, the drivers that know it.
type field struct {
	name, text, unit string
	from             int
}

// gpuFields are the names --query-gpu takes, with their aliases.
var gpuFields = fieldsOf(`
timestamp = {timestamp}
driver_version = {driver}
kmd_version = {driver} @595
count, gpu_count = {count}
index = {index}
name, gpu_name = {name}
serial, gpu_serial = {serial}
uuid, gpu_uuid = {uuid}
pci.bus_id, gpu_bus_id = {bus_id}
pci.domain = 0x0000
pci.bus = 0x{bus}
pci.device = 0x{bus_device}
pci.device_id = 0x{device_id}
pci.sub_device_id = 0x{subsystem_id}
pcie.link.gen.current = {pcie_gen}
pcie.link.gen.gpucurrent = {pcie_gen} @525
pcie.link.gen.max = {pcie_gen}
pcie.link.width.current = 16
pcie.link.width.max = 16
display_mode = Disabled
display_active = Disabled
persistence_mode = {persistence}
addressing_mode = None @536
accounting.mode = Disabled
vbios_version = {vbios}
compute_mode = Default
compute_cap = {compute_cap} @515
fan.speed = {fan} [%]
pstate = {pstate}
temperature.gpu = {temperature}
temperature.gpu.tlimit = N/A @525
temperature.memory = N/A
power.management = Enabled
power.draw = {power} [W]
power.draw.average = {power} [W] @536
power.draw.instant = {power} [W] @536
power.limit = {power_limit} [W]
enforced.power.limit = {power_limit} [W]
power.default_limit = {power_limit} [W]
power.min_limit = {power_min} [W]
power.max_limit = {power_limit} [W]
utilization.gpu = {gpu_util} [%]
utilization.memory = {memory_util} [%]
utilization.encoder = 0 [%] @536
utilization.decoder = 0 [%] @536
memory.total = {memory_total} [MiB]
memory.reserved = {memory_reserved} [MiB] @515
memory.used = {memory_used} [MiB]
memory.free = {memory_free} [MiB]
clocks.current.graphics, clocks.gr = {clock_graphics} [MHz]
clocks.current.sm, clocks.sm = {clock_sm} [MHz]
clocks.current.memory, clocks.mem = {clock_mem} [MHz]
clocks.current.video, clocks.video = {clock_video} [MHz]
clocks.max.graphics, clocks.max.gr = {clock_graphics_max} [MHz]
clocks.max.sm = {clock_sm_max} [MHz]
clocks.max.memory, clocks.max.mem = {clock_mem_max} [MHz]
ecc.mode.current = {ecc_mode}
ecc.mode.pending = {ecc_mode}
ecc.errors.corrected.volatile.device_memory = {ecc_volatile_cor}
ecc.errors.corrected.volatile.dram = {ecc_volatile_cor}
ecc.errors.corrected.volatile.sram = {ecc_zero}
ecc.errors.corrected.volatile.total = {ecc_volatile_cor}
ecc.errors.corrected.aggregate.dram = {ecc_aggregate_cor}
ecc.errors.corrected.aggregate.sram = {ecc_zero}
ecc.errors.corrected.aggregate.total = {ecc_aggregate_cor}
ecc.errors.uncorrected.volatile.device_memory = {ecc_volatile_unc}
ecc.errors.uncorrected.volatile.dram = {ecc_volatile_unc}
ecc.errors.uncorrected.volatile.sram = {ecc_volatile_sram_unc}
ecc.errors.uncorrected.volatile.total = {ecc_volatile_total_unc}
ecc.errors.uncorrected.aggregate.dram = {ecc_aggregate_unc}
ecc.errors.uncorrected.aggregate.sram = {ecc_aggregate_sram_unc}
ecc.errors.uncorrected.aggregate.total = {ecc_aggregate_total_unc}
retired_pages.single_bit_ecc.count, retired_pages.sbe = {retired_single}
retired_pages.double_bit.count, retired_pages.dbe = {retired_double}
retired_pages.pending = {retirement_pending}
remapped_rows.correctable = {remapped_correctable} @515
remapped_rows.uncorrectable = {remapped_uncorrectable} @515
remapped_rows.pending = {remap_pending} @515
remapped_rows.failure = {remap_failure} @515
mig.mode.current = {mig} @515
mig.mode.pending = {mig} @515
gsp.mode.current = N/A @515
fabric.state = N/A @525
fabric.status = N/A @525
gpu_recovery_action = {recovery_action} @570
reset_status.reset_required = {reset_required} @536
clocks_event_reasons.supported = 0x00000000000001FF @536
clocks_event_reasons.gpu_idle = {idle} @536
clocks_event_reasons.sw_power_cap = Not Active @536
clocks_event_reasons.hw_slowdown = {hw_slowdown} @536
clocks_event_reasons.hw_thermal_slowdown = {hw_thermal} @536
clocks_event_reasons.hw_power_brake_slowdown = {hw_brake} @536
clocks_event_reasons.sw_thermal_slowdown = Not Active @536
clocks_event_reasons.sync_boost = Not Active @536
clocks_throttle_reasons.gpu_idle = {idle}
clocks_throttle_reasons.sw_power_cap = Not Active
clocks_throttle_reasons.hw_slowdown = {hw_slowdown}
clocks_throttle_reasons.hw_thermal_slowdown = {hw_thermal}
clocks_throttle_reasons.hw_power_brake_slowdown = {hw_brake}
clocks_throttle_reasons.sw_thermal_slowdown = Not Active
clocks_throttle_reasons.sync_boost = Not Active
`)

// appFields are the names --query-compute-apps takes; their text is a bare name of a value.
var appFields = fieldsOf(`
timestamp = timestamp
gpu_name = name
gpu_bus_id = bus_id
gpu_serial = serial
gpu_uuid = uuid
pid = pid
process_name, name = process_name
used_gpu_memory, used_memory = used [MiB]
`)

// fieldsOf reads `name, alias = text [unit] @first-driver`, one a line.
func fieldsOf(table string) map[string]field {
	fields := map[string]field{}
	for _, line := range strings.Split(strings.TrimSpace(table), "\n") {
		names, rest, _ := strings.Cut(line, " = ")
		rest, from, _ := strings.Cut(rest, " @")
		text, unit, _ := strings.Cut(rest, " [")
		f := field{text: text, unit: strings.TrimSuffix(unit, "]"), from: parseCondition(from + "-").from}
		for i, name := range strings.Split(names, ", ") {
			f.name = name
			if i > 0 && strings.HasPrefix(text, "used") {
				f.name = "used_gpu_memory" // the alias prints the long header
			}
			fields[name] = f
		}
	}
	return fields
}

// pick finds the queried fields; the second result is the first name that the driver does not know.
func pick(known map[string]field, query string, driver int) ([]field, string) {
	columns := []field{}
	for _, name := range strings.Split(query, ",") {
		name = strings.TrimSpace(name)
		f, ok := known[name]
		if !ok || driver < f.from {
			return nil, name
		}
		columns = append(columns, f)
	}
	return columns, ""
}
