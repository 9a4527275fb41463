package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// v1 is a message as a server sends it.
func v1(parts ...string) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(parts)+1))
	offset := uint64(8 * (len(parts) + 2))
	for _, p := range parts {
		b = binary.LittleEndian.AppendUint64(b, offset)
		offset += uint64(len(p))
	}
	b = binary.LittleEndian.AppendUint64(b, offset)
	return append(b, strings.Join(parts, "")...)
}

func TestParseFindsWhatTheClientLooksAt(t *testing.T) {
	for _, header := range []string{`{"msg_id":"1","msg_type":"stream"}`, `{"msg_id": "1", "msg_type": "stream"}`} {
		m, err := parse(v1("iopub", header, `{"msg_id":"p"}`, "{}", `{"name": "stdout", "text": "41 xx\n"}`))
		if err != nil {
			t.Fatal(err)
		}
		if !m.is("stream") || m.is("status") || !bytes.Contains(m.parent, []byte(`"p"`)) || number(m.content) != 41 {
			t.Errorf("channel %q, header %q, parent %q, content %q", m.channel, m.header, m.parent, m.content)
		}
	}
	whole := v1("iopub", "{}", "{}", "{}", "{}")
	for n := range whole {
		if _, err := parse(whole[:n]); err == nil {
			t.Errorf("%d bytes of %d were taken for a message", n, len(whole))
		}
	}
}

func TestFiguresAreMediansWithTheirRangeAndVerdict(t *testing.T) {
	f := newFigures()
	base, mine := subject{kernels, "stock", fakeKernel, true}, subject{kernels, "process", fakeKernel, true}
	for _, v := range []float64{2, 1, 4} {
		f.add(base, latencyQuick, v)
		f.add(mine, latencyQuick, v/8)
		f.add(base, throughput, 1000*v)
		f.add(mine, throughput, 5000*v)
	}
	f.add(mine, idleOpen, 499)
	f.add(mine, idleRSS, 59.94)
	page := f.page(machine{"a machine"}, "go run ./bench", plan{rounds: 3})
	for _, want := range []string{
		"| execute round trip p50, client acknowledges at once, ms | 2.000 (1.000-4.000) | 0.250 (0.125-0.500) | 1/8.0 | at most 1/4: met |",
		"| iopub messages of 100 B, 1/s | 2000 (1000-4000) | 10000 (5000-20000) | 5.0 | at least 10 times: **missed** |",
		"| idle WebSockets open, of 500 | - | 499 | - | 500: **missed** |",
		"| server memory (RSS) an idle WebSocket, KiB | - | 59.9 | - | under 60: met |",
		"    go run ./bench\n", "- a machine\n", "3 rounds",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(page, agentCPU.name) {
		t.Error("the page has a line without a figure")
	}
}

// A kernel whose iopub queue overflows drops messages, idle among them.
func TestCellWithoutIdleEndsWhenItIsQuiet(t *testing.T) {
	kernel := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, b, err := c.ReadMessage()
		if err != nil {
			t.Error(err)
			return
		}
		request, err := parse(b)
		if err != nil {
			t.Error(err)
		}
		for _, reply := range [][]byte{
			v1("iopub", `{"msg_type":"stream"}`, string(request.header), "{}", `{"text":"0 x"}`),
			v1("shell", `{"msg_type":"execute_reply"}`, string(request.header), "{}", `{"status":"ok"}`),
		} {
			if err := c.WriteMessage(websocket.BinaryMessage, reply); err != nil {
				t.Error(err)
			}
		}
		_, _, _ = c.ReadMessage() // until the client closes
	}))
	defer kernel.Close()
	ws, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(kernel.URL, "http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	got := 0
	c := &client{ws: ws, quiet: 50 * time.Millisecond}
	if err := c.execute("print 2 100", func([]byte) { got++ }); !errors.Is(err, errIdleLost) || got != 1 {
		t.Errorf("%v after %d messages", err, got)
	}
}

func TestOwnProcessorTimeGrows(t *testing.T) {
	before, err := cpu(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Millisecond); time.Now().Before(deadline); {
	}
	after, err := cpu(os.Getpid())
	if err != nil || after <= before {
		t.Errorf("from %v to %v, %v", before, after, err)
	}
	if _, err := cpu(1<<22 + 1); err == nil {
		t.Error("a process that cannot exist has used processor time")
	}
}
