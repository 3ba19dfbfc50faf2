package vram

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// mappedBytes counts the memory of a real engine that has no GPU: the anonymous pages of the process and all its
// descendants, and their proportional part of shared memory, from /proc/<pid>/smaps_rollup. 0 where the pid is not
// visible: only a caller in the host's pid namespace sees it.
func mappedBytes(pid int) int64 {
	if pid <= 0 {
		return 0
	}
	total := int64(0)
	for _, member := range family(pid) {
		text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(member), "smaps_rollup"))
		if err != nil {
			continue // ended while we counted
		}
		for _, line := range strings.Split(string(text), "\n") {
			fields := strings.Fields(line)
			if len(fields) == 3 && (fields[0] == "Anonymous:" || fields[0] == "Pss_Shmem:") {
				kib, _ := strconv.ParseInt(fields[1], 10, 64)
				total += kib * 1024
			}
		}
	}
	return total
}

// family is a process and its descendants.
func family(root int) []int {
	children := map[int][]int{}
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "stat"))
		if err != nil {
			continue
		}
		// The command's name stands in parentheses and may hold anything; the fields after it are state and parent.
		rest := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(rest) > 1 {
			parent, _ := strconv.Atoi(rest[1])
			children[parent] = append(children[parent], pid)
		}
	}
	members := []int{root}
	for i := 0; i < len(members); i++ {
		members = append(members, children[members[i]]...)
	}
	return members
}
