// Package vram counts what is held of a GPU's memory. A claim is a file in <gpu>/claims whose holder keeps a POSIX lock
// on it: the kernel drops the lock with the process, so memory is free the moment its holder is dead, with nobody told.
package vram

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"greenthread.ai/hack/gpu/card"
)

// MiB in bytes.
const MiB = int64(1) << 20

// claimBytesMax bounds what is read of one claim.
const claimBytesMax = 64

// Claim is live memory of one process; Pid is 0 where the caller's pid namespace does not show it.
type Claim struct {
	Pid   int
	Bytes int64
}

// Live lists the claims below a GPU's folder whose holders are alive.
func Live(folder string) ([]Claim, error) {
	entries, err := os.ReadDir(filepath.Join(folder, "claims"))
	if err != nil {
		return nil, err
	}
	claims := []Claim{}
	for _, entry := range entries {
		claim, alive, err := read(filepath.Join(folder, "claims", entry.Name()))
		if os.IsNotExist(err) {
			continue // removed between listing and opening
		}
		if err != nil {
			return nil, err
		}
		if alive {
			claims = append(claims, claim)
		}
	}
	return claims, nil
}

func read(path string) (Claim, bool, error) {
	file, err := os.Open(path)
	if err != nil {
		return Claim{}, false, err
	}
	defer file.Close()
	lock := syscall.Flock_t{Type: syscall.F_WRLCK}
	if err := syscall.FcntlFlock(file.Fd(), syscall.F_GETLK, &lock); err != nil {
		return Claim{}, false, fmt.Errorf("%s: %w", path, err)
	}
	if lock.Type == syscall.F_UNLCK {
		return Claim{}, false, nil
	}
	text := make([]byte, claimBytesMax)
	n, _ := file.ReadAt(text, 0)
	content := strings.TrimSpace(string(text[:n]))
	claim := Claim{Pid: int(lock.Pid)}
	switch {
	case content == "": // its holder has the lock and has taken nothing yet
	case content == "anonymous":
		claim.Bytes = mappedBytes(claim.Pid)
	default:
		claim.Bytes, err = strconv.ParseInt(content, 10, 64)
		if err != nil || claim.Bytes < 0 {
			return Claim{}, false, fmt.Errorf("%s: %q is not a count of bytes", path, content)
		}
	}
	return claim, true, nil
}

// Sum of claims in bytes.
func Sum(claims []Claim) int64 {
	total := int64(0)
	for _, claim := range claims {
		total += claim.Bytes
	}
	return total
}

// Capacity is what processes can hold of a GPU altogether, in bytes.
func Capacity(c *card.Card) int64 { return (c.TotalMiB - c.ReservedMiB - c.BaseMiB) * MiB }

// Hold takes bytes of a GPU for this process until it ends; with force, also what is not free.
// Whoever takes memory does so under the lock of <gpu>/alloc.lock, so that two cannot take the same bytes.
func Hold(folder string, bytes int64, force bool) error {
	c, err := card.Load(folder)
	if err != nil {
		return err
	}
	return claim(folder, fmt.Sprintf("%020d\n", bytes), func() error {
		claims, err := Live(folder)
		if err != nil {
			return err
		}
		if free := Capacity(c) - Sum(claims); bytes > free && !force {
			return fmt.Errorf("out of memory on %s: %d bytes wanted, %d free", c.UUID, bytes, free)
		}
		return nil
	})
}

// HoldMapped claims what this process and its descendants have mapped, also after an exec.
func HoldMapped(folder string) error {
	return claim(folder, "anonymous\n", func() error { return nil })
}

// claim writes a claim under the gate and keeps it open and locked: the lock lives as long as this process, also
// through an exec, so the file is opened without O_CLOEXEC.
func claim(folder, content string, allowed func() error) error {
	gate, err := os.OpenFile(filepath.Join(folder, "alloc.lock"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer gate.Close()
	if err := syscall.FcntlFlock(gate.Fd(), syscall.F_SETLKW, &syscall.Flock_t{Type: syscall.F_WRLCK}); err != nil {
		return err
	}
	if err := allowed(); err != nil {
		return err
	}
	path := filepath.Join(folder, "claims", fmt.Sprintf("hold-%d-%d", os.Getpid(), time.Now().UnixNano()))
	fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_CREAT|syscall.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if err := syscall.FcntlFlock(uintptr(fd), syscall.F_SETLK, &syscall.Flock_t{Type: syscall.F_WRLCK}); err != nil {
		return err
	}
	_, err = syscall.Pwrite(fd, []byte(content), 0)
	return err
}
