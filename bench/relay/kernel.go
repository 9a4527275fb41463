package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"kernelgw/jupyter"
	"kernelgw/jupyter/wsproto"
	"kernelgw/jupyter/zmq"
)

// kernel is a kernel process and the sockets to it.
type kernel struct {
	// set at construction
	dir    string
	cmd    *exec.Cmd
	client *zmq.Client
	all    sync.WaitGroup

	scratch []byte // owned by relay

	mu      sync.Mutex
	sockets []*socket // guarded by mu
}

func startKernel(ctx context.Context, argv []string) (*kernel, error) {
	info, err := freePorts()
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(info)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "relay")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "connection.json")
	args := slices.Clone(argv)
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "{connection_file}", file)
	}
	k := &kernel{dir: dir, cmd: exec.Command(args[0], args[1:]...)}
	k.cmd.Env = append(os.Environ(), "GOMAXPROCS=1") // as in the kernelspec of the others
	if err := errors.Join(os.WriteFile(file, b, 0o600), k.cmd.Start()); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	k.all.Go(func() { _ = k.cmd.Wait() })
	if k.client, err = zmq.Dial(ctx, info, zmq.Options{}); err != nil {
		k.close()
		return nil, err
	}
	k.all.Go(func() { _ = k.client.Run(context.Background(), k.relay) })
	return k, nil
}

// freePorts picks ports that are free, and a key.
func freePorts() (jupyter.ConnectionInfo, error) {
	info := jupyter.ConnectionInfo{Transport: "tcp", IP: "127.0.0.1", Key: jupyter.NewID(), SignatureScheme: "hmac-sha256"}
	for _, port := range []*int{&info.ShellPort, &info.IOPubPort, &info.StdinPort, &info.ControlPort, &info.HBPort} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return info, err
		}
		defer l.Close() // all are held at once, so that they differ
		*port = l.Addr().(*net.TCPAddr).Port
	}
	return info, nil
}

func (k *kernel) close() {
	_ = k.cmd.Process.Kill()
	if k.client != nil {
		_ = k.client.Close()
	}
	k.mu.Lock()
	for _, s := range k.sockets {
		s.close()
	}
	k.mu.Unlock()
	k.all.Wait()
	_ = os.RemoveAll(k.dir)
}

func (k *kernel) attach(s *socket) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sockets = append(k.sockets, s)
}

func (k *kernel) detach(s *socket) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sockets = slices.DeleteFunc(slices.Clone(k.sockets), func(other *socket) bool { return other == s })
}

// relay gives a message of the kernel to every client, whoever it is for.
func (k *kernel) relay(m *jupyter.Message) {
	k.scratch, _ = wsproto.Append(k.scratch[:0], wsproto.V1, m)
	k.mu.Lock()
	sockets := k.sockets
	k.mu.Unlock()
	for _, s := range sockets {
		s.put(k.scratch)
	}
}
