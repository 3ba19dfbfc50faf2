package vram

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A vLLM runs as a server, a core and workers; the workers hold what would be on the GPU.
const (
	engineModule = "vllm.entrypoints"
	workerName   = "VLLM::Worker"
)

// mappedBytes counts the memory of a real engine that has no GPU: the anonymous pages of the process and its descendants, of a
// vLLM those of its workers. Shared memory does not count: images of weights lie in the host's memory on a node with
// GPUs too. /proc/<pid>/status says it to everybody, smaps only to who may trace the process. 0 where the pid is not
// visible: only a caller in the host's pid namespace sees it.
func mappedBytes(pid int) int64 {
	if pid <= 0 {
		return 0
	}
	command, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	workersAlone := strings.Contains(string(command), engineModule)
	total := int64(0)
	for _, member := range family(pid) {
		total += anonymousBytes(member, workersAlone)
	}
	return total
}

// anonymousBytes is 0 for a process that has ended while we counted, and for one that is no worker where only those count.
func anonymousBytes(pid int, workersAlone bool) int64 {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0
	}
	for _, line := range strings.Split(string(text), "\n") {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		if name == "Name" && workersAlone && !strings.HasPrefix(value, workerName) {
			return 0
		}
		if name == "RssAnon" {
			kib, _ := strconv.ParseInt(strings.TrimSuffix(value, " kB"), 10, 64)
			return kib * 1024
		}
	}
	return 0
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
