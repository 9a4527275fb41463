package zmq

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-zeromq/zmq4"
	"github.com/google/go-cmp/cmp"

	"kernelgw/jupyter"
	"kernelgw/jupyter/jupytertest"
)

// running is a Client in its Run.
type running struct {
	*Client
	messages chan *jupyter.Message
	ended    chan error
}

func run(t *testing.T, info jupyter.ConnectionInfo, o Options) *running {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := Dial(ctx, info, o)
	if err != nil {
		t.Fatal(err)
	}
	r := &running{c, make(chan *jupyter.Message, 100000), make(chan error, 1)}
	var group sync.WaitGroup
	group.Go(func() {
		r.ended <- c.Run(context.Background(), func(m *jupyter.Message) { r.messages <- m })
		close(r.messages)
	})
	t.Cleanup(func() {
		c.Close()
		group.Wait()
	})
	return r
}

// next is the next message of a type; others are thrown away.
func (r *running) next(t *testing.T, msgType string) *jupyter.Message {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case m, ok := <-r.messages:
			if !ok {
				t.Fatalf("the connection ended before a %s: %v", msgType, <-r.ended)
			}
			if jupyter.PeekType(m.Header) == msgType {
				return m
			}
		case <-timeout:
			t.Fatalf("no %s", msgType)
		}
	}
}

func request(t *testing.T, channel jupyter.Channel, msgType string, content any) *jupyter.Message {
	t.Helper()
	m, err := jupyter.NewMessage(channel, msgType, "session", content)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestZeroMQPeer talks to the sockets of zmq4, which share nothing with ours.
func TestZeroMQPeer(t *testing.T) {
	info := jupyter.ConnectionInfo{Transport: "tcp", IP: "127.0.0.1", Key: testKey}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	sockets := map[jupyter.Channel]zmq4.Socket{}
	for name, port := range map[jupyter.Channel]*int{
		jupyter.Shell: &info.ShellPort, jupyter.Control: &info.ControlPort, jupyter.Stdin: &info.StdinPort, jupyter.IOPub: &info.IOPubPort,
	} {
		s := zmq4.NewRouter(ctx)
		if name == jupyter.IOPub {
			s = zmq4.NewXPub(ctx)
		}
		defer s.Close()
		if err := s.Listen("tcp://127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		*port = s.Addr().(*net.TCPAddr).Port
		sockets[name] = s
	}
	c := run(t, info, Options{Identity: []byte("same-identity")})

	for _, name := range []jupyter.Channel{jupyter.Shell, jupyter.Control, jupyter.Stdin} {
		sent := request(t, name, "some_request", map[string]string{"on": string(name)})
		sent.Buffers = [][]byte{{}, {0, 255}, fill('x', 300)}
		if err := c.Send(sent); err != nil {
			t.Fatal(err)
		}
		got, err := sockets[name].Recv()
		if err != nil {
			t.Fatal(err)
		}
		want := append([][]byte{
			[]byte("same-identity"), delimiter, []byte(jupyter.Sign([]byte(testKey), sent)),
			sent.Header, sent.ParentHeader, sent.Metadata, sent.Content,
		}, sent.Buffers...)
		if d := cmp.Diff(want, got.Frames); d != "" {
			t.Errorf("%s: frames at the kernel (-want +got):\n%s", name, d)
		}
		if err := sockets[name].Send(zmq4.NewMsgFrom(got.Frames...)); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(sent, c.next(t, "some_request")); d != "" {
			t.Errorf("%s: echo (-want +got):\n%s", name, d)
		}
	}

	// zmq4's XPUB drops what is sent before it has read the subscription.
	m := stream("hello")
	frames := [][]byte{[]byte("topic"), delimiter, []byte(jupyter.Sign([]byte(testKey), m)), m.Header, m.ParentHeader, m.Metadata, m.Content}
	for tries := 0; len(c.messages) == 0; tries++ {
		if tries == 1000 {
			t.Fatal("nothing on iopub after 1000 messages")
		}
		if err := sockets[jupyter.IOPub].Send(zmq4.NewMsgFrom(frames...)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond) // its queue gives no event
	}
	if d := cmp.Diff(m, c.next(t, "stream")); d != "" {
		t.Errorf("iopub (-want +got):\n%s", d)
	}
}

func TestDialWaitsForAKernelThatBindsLate(t *testing.T) {
	dir, err := os.MkdirTemp("", "zmq")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	info := jupyter.ConnectionInfo{
		Transport: "ipc", IP: filepath.Join(dir, "k"), Key: testKey,
		ShellPort: 1, IOPubPort: 2, StdinPort: 3, ControlPort: 4, HBPort: 5,
	}
	bound := make(chan struct{})
	var group sync.WaitGroup
	defer group.Wait()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	group.Go(func() {
		defer close(bound)
		time.Sleep(30 * time.Millisecond) // some attempts fail first
		k, err := jupytertest.New(&info)
		if err != nil {
			t.Error(err)
			return
		}
		group.Go(func() { k.Run(ctx) })
	})
	c := run(t, info, Options{})
	<-bound
	c.next(t, "iopub_welcome")
}

func TestDialGivesUpWithItsContext(t *testing.T) {
	info := jupyter.ConnectionInfo{Transport: "ipc", IP: filepath.Join(t.TempDir(), "nobody")}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := Dial(ctx, info, Options{})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "last attempt") {
		t.Errorf("Dial: %v, want the context's error and the last attempt's", err)
	}
}

func TestDialRefusesWhatItCannotDo(t *testing.T) {
	for _, tc := range []struct {
		info jupyter.ConnectionInfo
		o    Options
		want string
	}{
		{jupyter.ConnectionInfo{Transport: "udp"}, Options{}, `transport "udp"`},
		{jupyter.ConnectionInfo{Key: "k", SignatureScheme: "hmac-md5"}, Options{}, `"hmac-md5"`},
		{jupyter.ConnectionInfo{}, Options{Identity: fill('i', 256)}, "identity of 256 bytes"},
	} {
		if _, err := Dial(t.Context(), tc.info, tc.o); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("Dial: %v, want an error with %q", err, tc.want)
		}
	}
}

func TestMessagesKeepTheirOrder(t *testing.T) {
	_, info := jupytertest.Start(t)
	c := run(t, info, Options{})
	c.next(t, "iopub_welcome")
	const n = 20000
	if err := c.Send(request(t, jupyter.Shell, "execute_request", map[string]string{"code": fmt.Sprintf("print %d 50", n)})); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		text := jupyter.PeekString(c.next(t, "stream").Content, "text")
		if !strings.HasPrefix(text, fmt.Sprintf("%d ", i)) {
			t.Fatalf("message %d is %q", i, text)
		}
	}
	if s := c.Stats(); s != (Stats{}) {
		t.Errorf("stats %+v", s)
	}
}

func TestLastOutputOfADyingKernelArrives(t *testing.T) {
	_, info := jupytertest.Start(t)
	c := run(t, info, Options{})
	c.next(t, "iopub_welcome")
	const n = 5000
	code := fmt.Sprintf("print %d 1000\nsay last words\ndie 1", n)
	if err := c.Send(request(t, jupyter.Shell, "execute_request", map[string]string{"code": code})); err != nil {
		t.Fatal(err)
	}
	for range n {
		c.next(t, "stream")
	}
	if text := jupyter.PeekString(c.next(t, "stream").Content, "text"); text != "last words\n" {
		t.Errorf("the last message is %q", text)
	}
	if err := <-c.ended; !errors.Is(err, io.EOF) {
		t.Errorf("Run ended with %v, want the end of a socket", err)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	_, info := jupytertest.Start(t)
	c, err := Dial(t.Context(), info, Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = c.Run(ctx, func(m *jupyter.Message) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
	if err := c.Run(t.Context(), nil); err == nil {
		t.Error("a second Run is no error")
	}
}

func TestSendRefuses(t *testing.T) {
	_, info := jupytertest.Start(t)
	c := run(t, info, Options{MaxMessageBytes: 1000})
	big := request(t, jupyter.Shell, "x", nil)
	big.Buffers = [][]byte{fill('b', 1000)}
	if err := c.Send(big); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	if err := c.Send(request(t, jupyter.IOPub, "x", nil)); err == nil || !strings.Contains(err.Error(), "iopub") {
		t.Errorf("iopub: %v", err)
	}
}

func TestConcurrentSendersDoNotMixFrames(t *testing.T) {
	k, info := jupytertest.Start(t)
	c := run(t, info, Options{BacklogBytes: 1 << 30})
	c.next(t, "iopub_welcome")
	const senders, each = 8, 50
	var group sync.WaitGroup
	for range senders {
		group.Go(func() {
			for range each {
				if err := c.Send(request(t, jupyter.Shell, "execute_request", map[string]string{"code": "say " + strings.Repeat("y", 2000)})); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	for range senders * each {
		c.next(t, "execute_reply")
	}
	if k.Rejected() != 0 {
		t.Errorf("%d messages had a wrong signature", k.Rejected())
	}
}
