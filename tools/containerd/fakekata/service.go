package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/emptypb"
)

// service is runc's task service with Kata's behaviour over it.
type service struct {
	taskapi.TTRPCTaskService

	mu      sync.Mutex
	machine *machine // of the pod
	pod     string
	stuck   bool // the pod went before its container: this shim never ends
	exited  map[string]*exit
}

// exit is what is known of a container.
type exit struct {
	at     time.Time // zero while it runs
	denied bool      // runtime-rs: a Wait was answered with EBUSY
	paused bool
}

func (s *service) RegisterTTRPC(server *ttrpc.Server) error {
	taskapi.RegisterTTRPCTaskService(server, s)
	return nil
}

func (s *service) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	spec, err := readSpec(r.Bundle)
	if err != nil {
		return nil, s.failed("create container", err)
	}
	if err := s.check(spec, r); err != nil {
		return nil, s.failed("create container", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch spec.Annotations[typeKey] {
	case "sandbox":
		if s.machine, err = startMachine(spec, r.ID); err != nil {
			return nil, s.failed("start sandbox", err)
		}
		s.pod = r.ID
		go s.watch(s.machine)
	case "container":
		if s.machine == nil || spec.Annotations[podKey] != s.pod {
			return nil, s.failed("create container", fmt.Errorf("no sandbox %q", spec.Annotations[podKey]))
		}
	default:
		return nil, s.failed("create container", errors.New("the fake knows pods only: Kata never tells of a kill for memory otherwise"))
	}
	if err := writeSpec(r.Bundle, inGuest(spec)); err != nil {
		return nil, s.failed("create container", err)
	}
	r.Options = nil // Kata's, which runc does not know
	if _, err := s.TTRPCTaskService.Create(ctx, r); err != nil {
		return nil, s.failed("create container", err)
	}
	s.exited[r.ID] = &exit{}
	return &taskapi.CreateTaskResponse{Pid: s.pid()}, nil
}

// check fails, or dies, where Kata would.
func (s *service) check(spec *specs.Spec, r *taskapi.CreateTaskRequest) error {
	if spec.Linux == nil || spec.Linux.Resources == nil {
		if isGo() {
			panic("runtime error: invalid memory address or nil pointer dereference")
		}
		return errors.New("no resources")
	}
	for key := range spec.Annotations {
		if strings.HasPrefix(key, "io.katacontainers.config.hypervisor.") {
			return fmt.Errorf("annotation %s is not enabled", key)
		}
	}
	if r.Options != nil {
		options, err := typeurl.UnmarshalAny(r.Options)
		if err != nil {
			return err
		}
		o, ok := options.(*runtimeoptions.Options)
		if !ok {
			return fmt.Errorf("options of type %T", options)
		}
		if _, err := os.Stat(o.ConfigPath); err != nil {
			return fmt.Errorf("load config: %w", err)
		}
	}
	for _, stream := range []string{r.Stdin, r.Stdout, r.Stderr} {
		if strings.Contains(stream, "://") && !strings.HasPrefix(stream, "fifo://") {
			return fmt.Errorf("unsupported io scheme in %s", stream)
		}
	}
	return nil
}

// inGuest changes a specification as Kata does on its way into the guest.
func inGuest(spec *specs.Spec) *specs.Spec {
	spec.Linux.Seccomp = nil
	spec.Linux.Resources.Pids = nil
	spec.Linux.Resources.Devices = nil
	for i := range spec.Mounts {
		if m := &spec.Mounts[i]; m.Destination == "/dev/shm" {
			size := "size=50%"
			if isGo() {
				size = "size=65536k"
			}
			m.Type, m.Source, m.Options = "tmpfs", "shm", []string{"nosuid", "nodev", "mode=1777", size}
		}
	}
	return spec
}

func writeSpec(bundle string, spec *specs.Spec) error {
	data, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(bundle, "config.json"), data, 0o600)
}

// pid is what Kata tells of every container: the machine's.
func (s *service) pid() uint32 { return uint32(s.machine.qemu.Process.Pid) }

func (s *service) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	if _, err := s.TTRPCTaskService.Start(ctx, r); err != nil {
		return nil, s.failed("start process", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	go s.follow(r.ID)
	return &taskapi.StartResponse{Pid: s.pid()}, nil
}

// follow notes when a container ended.
func (s *service) follow(id string) {
	if _, err := s.TTRPCTaskService.Wait(context.Background(), &taskapi.WaitRequest{ID: id}); err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.exited[id]; e != nil {
		e.at = time.Now()
	}
}

// watch ends all containers when their machine ends.
func (s *service) watch(m *machine) {
	<-m.dead
	s.mu.Lock()
	var ids []string
	for id := range s.exited {
		ids = append(ids, id)
	}
	s.mu.Unlock()
	for _, id := range ids {
		_, _ = s.TTRPCTaskService.Kill(context.Background(), &taskapi.KillRequest{ID: id, Signal: 9, All: true})
	}
}

// lost reports whether the machine ended by itself.
func (s *service) lost() bool {
	if s.machine == nil {
		return false
	}
	select {
	case <-s.machine.dead:
		return true
	default:
		return false
	}
}

func (s *service) State(ctx context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	state, err := s.TTRPCTaskService.State(ctx, r)
	if err != nil {
		return nil, s.failed("state process", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	state.Pid = s.pid()
	if state.Status == tasktypes.Status_STOPPED && s.lost() {
		state.ExitStatus = 255
	}
	return state, nil
}

func (s *service) Wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	answer, err := s.TTRPCTaskService.Wait(ctx, r)
	if err != nil {
		return nil, s.failed("wait process", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost() {
		answer.ExitStatus = 255
	}
	if e := s.exited[r.ID]; !isGo() && e != nil && !e.denied && r.ID != s.pod {
		e.denied = true
		return nil, s.failed("wait process", errors.New("EBUSY: Device or resource busy"))
	}
	return answer, nil
}

func (s *service) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.exited[r.ID]
	if isGo() && e != nil && time.Since(e.at) < 300*time.Millisecond {
		return nil, errors.New("Container not ready or stopped, impossible to delete") //nolint:staticcheck // Kata's words
	}
	if r.ID == s.pod && len(s.exited) > 1 {
		s.stuck = true
	}
	answer, err := s.TTRPCTaskService.Delete(ctx, r)
	if err != nil {
		return nil, s.failed("delete process", err)
	}
	answer.Pid = s.pid()
	delete(s.exited, r.ID)
	if r.ID == s.pod && !s.stuck {
		s.machine.stop()
	}
	return answer, nil
}

func (s *service) Shutdown(ctx context.Context, r *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	stuck := s.stuck
	s.mu.Unlock()
	if stuck {
		return &emptypb.Empty{}, nil
	}
	return s.TTRPCTaskService.Shutdown(ctx, r)
}

func (s *service) Kill(ctx context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	answer, err := s.TTRPCTaskService.Kill(ctx, r)
	if err != nil {
		return nil, s.failed("kill process", err)
	}
	return answer, nil
}

func (s *service) Pause(ctx context.Context, r *taskapi.PauseRequest) (*emptypb.Empty, error) {
	answer, err := s.TTRPCTaskService.Pause(ctx, r)
	if err != nil {
		return nil, s.failed("pause container", err)
	}
	s.paused(r.ID, true)
	return answer, nil
}

func (s *service) Resume(ctx context.Context, r *taskapi.ResumeRequest) (*emptypb.Empty, error) {
	answer, err := s.TTRPCTaskService.Resume(ctx, r)
	if err != nil {
		return nil, s.failed("resume container", err)
	}
	s.paused(r.ID, false)
	return answer, nil
}

func (s *service) paused(id string, paused bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.exited[id]; e != nil {
		e.paused = paused
	}
}

// Exec in a paused container locks all of runtime-rs.
func (s *service) Exec(ctx context.Context, r *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	e := s.exited[r.ID]
	if e != nil && e.paused {
		if isGo() {
			s.mu.Unlock()
			return nil, errors.New("container is paused")
		}
		select {} // with the lock held
	}
	s.mu.Unlock()
	return s.TTRPCTaskService.Exec(ctx, r)
}

func (s *service) Checkpoint(context.Context, *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, s.failed("checkpoint", errors.New("not implemented"))
}

func (s *service) Connect(ctx context.Context, r *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	answer, err := s.TTRPCTaskService.Connect(ctx, r)
	if err != nil {
		return nil, s.failed("connect", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.machine != nil {
		answer.TaskPid = s.pid()
	}
	return answer, nil
}

// failed is an error as the shim would send it: runtime-rs says of nothing what
// class it is, and sends all its causes and a backtrace.
func (s *service) failed(what string, err error) error {
	if isGo() {
		return err
	}
	frames := strings.Repeat("   1: std::backtrace_rs::backtrace::libunwind::trace\n             at ./library/std/src/backtrace.rs:104\n", 40)
	return fmt.Errorf("Others(\"failed to handle message %s in task handler\n\nCaused by:\n    0: %s in manager\n    1: %s\n\nStack backtrace:\n%s\")",
		what, what, err.Error(), frames)
}
