package splice

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gorilla/websocket"
)

// ends are real sockets for a splice, and its peers' ends of them.
func ends(tb testing.TB) (client, clientSide, agent, agentSide net.Conn) {
	tb.Helper()
	pipe := func(network, address string) (near, far net.Conn) {
		l, err := net.Listen(network, address)
		if err != nil {
			tb.Fatal(err)
		}
		defer l.Close()
		if near, err = net.Dial(network, l.Addr().String()); err != nil {
			tb.Fatal(err)
		}
		if far, err = l.Accept(); err != nil {
			tb.Fatal(err)
		}
		return near, far
	}
	client, clientSide = pipe("tcp", "127.0.0.1:0")
	agent, agentSide = pipe("unix", filepath.Join(tb.TempDir(), "a"))
	tb.Cleanup(func() {
		_ = client.Close()
		_ = agent.Close()
	})
	return client, clientSide, agent, agentSide
}

// run runs a splice until the peers' ends are closed.
func run(tb testing.TB, client, agent net.Conn, s *Splice) {
	done := make(chan struct{})
	go func() { defer close(done); s.Run() }()
	tb.Cleanup(func() {
		_ = client.Close()
		_ = agent.Close()
		<-done
	})
}

// sockets is a running splice over real sockets, with its peers' ends.
func sockets(tb testing.TB) (client, agent net.Conn) {
	tb.Helper()
	client, clientSide, agent, agentSide := ends(tb)
	run(tb, client, agent, newSplice(clientSide, agentSide, nil, nil, Options{ToClient: new(Traffic), ToAgent: new(Traffic)}.withDefaults()))
	return client, agent
}

// countedWrites counts what is written to a connection, and how often.
type countedWrites struct {
	net.Conn
	writes atomic.Int32
}

// Write implements net.Conn.
func (c *countedWrites) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

func TestSmallMessagesThatCameTogetherCrossTogether(t *testing.T) {
	client, clientSide, agent, agentSide := ends(t)
	b := bytes.Repeat(frame(Agent, 0x82, make([]byte, 100)), 300)
	if _, err := agent.Write(b); err != nil { // all of it, before anybody reads
		t.Fatal(err)
	}
	counted := &countedWrites{Conn: clientSide}
	run(t, client, agent, newSplice(counted, agentSide, nil, nil, Options{}.withDefaults()))
	got := make([]byte, len(b))
	if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, b) {
		t.Fatalf("what came is not what was sent: %v", err)
	}
	if n := counted.writes.Load(); n > 2 {
		t.Errorf("300 messages that the agent wrote at once crossed in %d writes", n)
	}
}

// send moves b through the splice.
func send(tb testing.TB, from, to net.Conn, b, into []byte) {
	if _, err := from.Write(b); err != nil {
		tb.Fatal(err)
	}
	if _, err := io.ReadFull(to, into); err != nil {
		tb.Fatal(err)
	}
}

func TestCopyingAllocatesNothing(t *testing.T) {
	if raceDetector {
		t.Skip("pools drop buffers at random under the race detector; run without -race")
	}
	client, agent := sockets(t)
	down, up := frame(Agent, 0x82, make([]byte, 100)), frame(Client, 0x82, make([]byte, 100))
	buf := make([]byte, 1<<10)
	// Without collections the pool keeps its buffers.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	allocs := testing.AllocsPerRun(500, func() {
		send(t, agent, client, down, buf[:len(down)])
		send(t, client, agent, up, buf[:len(up)])
	})
	if allocs > 0 {
		t.Errorf("%v allocations for a message each way, want none", allocs)
	}
}

// One message each way, across and back: two peers and the splice in between.
// Budget: 0 allocs/op.
func BenchmarkRoundTrip(b *testing.B) {
	client, agent := sockets(b)
	down, up := frame(Agent, 0x82, make([]byte, 100)), frame(Client, 0x82, make([]byte, 100))
	buf := make([]byte, 1<<10)
	b.ReportAllocs()
	for b.Loop() {
		send(b, client, agent, up, buf[:len(up)])
		send(b, agent, client, down, buf[:len(down)])
	}
}

// Following 600 small messages, as when the agent wrote them at once. Budget:
// 0 allocs/op, and a hundredth of what the kernel's socket calls cost a message.
func BenchmarkFollowSmallMessages(b *testing.B) {
	chunk := bytes.Repeat(frame(Agent, 0x82, make([]byte, 100)), 600)
	f := follower{from: Agent, limit: DefaultMaxMessageBytes}
	b.SetBytes(int64(len(chunk)))
	b.ReportAllocs()
	for b.Loop() {
		if at, v := f.follow(chunk); v != nil || at.forward != len(chunk) {
			b.Fatal(at, v)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/600, "ns/message")
}

// idleGateway is set in the process that TestIdleSocketCost measures, to the
// agent's socket.
const idleGateway = "SPLICE_TEST_IDLE_GATEWAY"

// serveIdleGateway is a gateway that does nothing but splice. It prints its
// address, and its resident memory for each line that it reads.
func serveIdleGateway(agent string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := net.Dial("unix", agent)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		s, err := Open(r.Context(), w, r, conn, Upgrade{Target: "/", Header: r.Header}, Options{})
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		go s.Run()
	})}
	go func() { _ = server.Serve(l) }()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			return err
		}
		_, rest, _ := bytes.Cut(status, []byte("VmRSS:"))
		fmt.Println(string(bytes.Fields(rest)[0]))
	}
	return nil
}

// The design allows an idle socket 60 KiB of the gateway's resident memory.
// Here is splice's and net/http's share of it, in a process of its own.
func TestIdleSocketCost(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector's memory would be measured; run without -race")
	}
	const sockets, budget = 500, 30 // KiB a socket
	socket := filepath.Join(t.TempDir(), "a")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	agent := &http.Server{Handler: echoAgent(t)}
	var wg sync.WaitGroup
	wg.Go(func() { _ = agent.Serve(l) })

	gateway := exec.Command(os.Args[0])
	gateway.Env = append(os.Environ(), idleGateway+"="+socket)
	gateway.Stderr = os.Stderr
	in, err := gateway.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := gateway.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := gateway.Start(); err != nil {
		t.Fatal(err)
	}
	var clients []*websocket.Conn
	defer func() {
		for _, c := range clients {
			_ = c.Close()
		}
		_ = in.Close()
		if err := gateway.Wait(); err != nil {
			t.Errorf("gateway: %v", err)
		}
		_ = agent.Close()
		wg.Wait()
	}()
	lines := bufio.NewScanner(out)
	line := func() string {
		if !lines.Scan() {
			t.Fatal("the gateway has ended")
		}
		return lines.Text()
	}
	rss := func() int {
		if _, err := io.WriteString(in, "\n"); err != nil {
			t.Fatal(err)
		}
		kib, err := strconv.Atoi(line())
		if err != nil {
			t.Fatal(err)
		}
		return kib
	}
	url := "ws://" + line()
	open := func(n int) {
		for range n {
			c, _, err := websocket.DefaultDialer.Dial(url, http.Header{"Cookie": {strings.Repeat("x", 1000)}})
			if err != nil {
				t.Fatal(err)
			}
			clients = append(clients, c)
			if err := c.WriteMessage(websocket.TextMessage, hello); err != nil {
				t.Fatal(err)
			}
			if _, _, err := c.ReadMessage(); err != nil {
				t.Fatal(err)
			}
		}
	}
	open(10) // what the first sockets bring about is not the cost of one more
	before := rss()
	open(sockets)
	each := float64(rss()-before) / sockets
	t.Logf("%.1f KiB of resident memory a socket", each)
	if each > budget {
		t.Errorf("an idle socket costs %.1f KiB, over the budget of %d", each, budget)
	}
}

// A flood of small messages, written by the agent 64 KiB at a time; one
// operation is one message. The time is that of both peers and the splice.
func BenchmarkFlood(b *testing.B) {
	client, agent := sockets(b)
	const batch = 600
	chunk := bytes.Repeat(frame(Agent, 0x82, make([]byte, 100)), batch)
	buf := make([]byte, len(chunk))
	b.ReportAllocs()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; n < b.N; n += batch {
			if _, err := agent.Write(chunk); err != nil {
				b.Error(err)
				return
			}
		}
	}()
	for n := 0; n < b.N; n += batch {
		if _, err := io.ReadFull(client, buf); err != nil {
			b.Fatal(err)
		}
	}
	<-done
}
