// Command containerd-shim-runc-v2 is containerd's own runc shim. It is a binary of its own because one runs per pod:
// from the big binary each start would cost 137 ms and it would load containerd's plug-ins as well.
package main

import (
	"context"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task/plugin"
	"github.com/containerd/containerd/v2/pkg/shim"
)

func main() {
	shim.RunShim(context.Background(), manager.NewShimManager("io.containerd.runc.v2"))
}
