// Fakekata is a containerd shim that behaves as Kata's two shims were seen to,
// where that differs from runc's, and runs its containers with runc. It is for
// the tests of the containerd driver on hosts without Kata: it checks what Kata
// is given and fails where Kata would, and it leaves behind what Kata leaves.
// There is no virtual machine: a process of QEMU's name stands for it.
//
// Called from a directory "go" it is the Go shim, else runtime-rs.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
)

func main() {
	switch base := filepath.Base(os.Args[0]); {
	case strings.HasPrefix(base, "qemu-system-"), base == "virtiofsd":
		stopped := make(chan os.Signal, 1)
		signal.Notify(stopped, syscall.SIGTERM)
		<-stopped
		return
	}
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		language := "Rust"
		if isGo() {
			language = "Golang"
		}
		fmt.Printf("Kata Containers containerd shim (%s): id: %q, version: 4.1.0, commit: fake\n", language, "io.containerd.kata.v2")
		return
	}
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			publisher, err := ic.GetByID(plugins.EventPlugin, "publisher")
			if err != nil {
				return nil, err
			}
			stop, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
			if err != nil {
				return nil, err
			}
			runc, err := task.NewTaskService(ic.Context, odd{publisher.(shim.Publisher)}, stop.(shutdown.Service))
			if err != nil {
				return nil, err
			}
			return &service{TTRPCTaskService: runc, exited: map[string]*exit{}}, nil
		},
	})
	shim.RunShim(context.Background(), starter{manager.NewShimManager("io.containerd.kata.v2")})
}

// isGo reports whether this is to be the Go shim.
func isGo() bool {
	self, err := os.Executable()
	return err == nil && filepath.Base(filepath.Dir(self)) == "go"
}
