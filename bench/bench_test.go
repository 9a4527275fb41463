package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
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
	bare := subject{kernels, relay, fakeKernel, true}
	for _, v := range []float64{2, 1, 4} {
		f.add(base, latencyQuick, v)
		f.add(mine, latencyQuick, v/8)
		f.add(base, throughput, 1000*v)
		f.add(mine, throughput, 5000*v)
		f.add(bare, latencyQuick, v/16)
		f.add(bare, throughput, 6250*v)
	}
	f.add(mine, idleOpen, 499)
	f.add(mine, idleRSS, 59.94)
	f.add(subject{streams, "process", fakeKernel, true}, politeLost, 0)
	f.add(subject{streams, "process", fakeKernel, true}, abruptLost, 1)
	page := f.page(machine{"a machine"}, "go run ./bench", plan{rounds: 3})
	for _, want := range []string{
		"| execute round trip p50, client acknowledges at once, ms | 2.000 (1.000-4.000) | 0.250 (0.125-0.500) | 1/8.0 | at most 1/5: met; under 1.5 times of relay: **missed** | 0.125 (0.062-0.250) | 2.0 |",
		"| iopub messages of 100 B, 1/s | 2000 (1000-4000) | 10000 (5000-20000) | 5.0 | at least 15 times: **missed**; at least 0.8 times of relay: met | 12500 (6250-25000) | 1/1.2 |",
		"| idle WebSockets open, of 500 | - | 499 | - | 500: **missed** |",
		"| server memory (RSS) an idle WebSocket, KiB | - | 59.9 | - | at most 1/3; under 60: met |",
		"| lost, client closes and comes back | - | 0 | - | none: met |", "| lost, connection is reset | - | 1 | - | none: **missed** |",
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

func TestFigureIsJudgedAgainstTheServerThatItNames(t *testing.T) {
	f := newFigures()
	base, mine := subject{part: files, server: "stock"}, subject{part: files, server: "process"}
	f.add(base, renameDirectory, 1)
	f.add(mine, renameDirectory, 1000)
	f.add(subject{part: files, server: "s3contents"}, renameDirectory, 4000)
	f.add(base, lookUneven, 1)
	f.add(mine, lookUneven, 2)
	page, first := subject{part: lab, server: "stock"}, subject{part: lab, server: "process"}
	f.add(page, firstVisit, 2000)
	f.add(first, firstVisit, 2000)
	f.add(page, nextVisit, 2000)
	f.add(first, nextVisit, 2001)
	text := f.page(nil, "", plan{rounds: 1})
	for _, want := range []string{
		"| rename a directory of 1000 files p50, ms | 1 | 1000 | 1000.0 | at most 1/3 of s3contents: met | 4000 | 1/4.0 | - | - |",
		"| 1.00 | 2.00 | 2.0 | under 2 times: **missed** |",
		"first visit of a new browser, p50, ms | 2000 | 2000 | 1.0 | no more: met |",
		"next visit of the same browser, p50, ms | 2000 | 2001 | 1.0 | no more: **missed** |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "ipykernel") {
		t.Error("the page tells of a part that was not measured")
	}
}

func TestChosenAreTheServersOfTheParts(t *testing.T) {
	list, err := chosen("lab,files", "process,s3contents")
	if got := fmt.Sprint(list); err != nil || got != "[process, files s3contents, files process, lab]" {
		t.Errorf("%s, %v", got, err)
	}
	for _, c := range [][2]string{{"lab", "s3contents"}, {"lab,pages", "stock"}, {"lab", "stock,none"}, {"", "stock"}} {
		if list, err := chosen(c[0], c[1]); err == nil {
			t.Errorf("chosen %v for %q", list, c)
		}
	}
}

func TestNotebookHasTheSizeAskedForAndIsANotebook(t *testing.T) {
	body := notebookOf(notebookSize, "x")
	if off := float64(len(body))/notebookSize - 1; off < 0 || off > 0.05 {
		t.Errorf("a notebook of %d bytes has %d", notebookSize, len(body))
	}
	var model struct {
		Content struct {
			Cells []struct{ ID string }
			Minor int `json:"nbformat_minor"`
		}
	}
	if err := json.Unmarshal(body, &model); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, cell := range model.Content.Cells {
		seen[cell.ID] = true
	}
	if len(seen) == 0 || len(seen) != len(model.Content.Cells) || model.Content.Minor != 5 {
		t.Errorf("%d ids of %d cells, nbformat 4.%d", len(seen), len(model.Content.Cells), model.Content.Minor)
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

func TestSightingsTellWhatIsLateFromWhatIsRepeated(t *testing.T) {
	seen := sightings{numbers: map[int]bool{}}
	for _, number := range []int{0, 1, 4, 5, 4, 3, 6} {
		seen.see(number)
	}
	if len(seen.numbers) != 6 || seen.repeated != 1 || seen.disordered != 1 {
		t.Errorf("%d numbers, %d repeated, %d out of order", len(seen.numbers), seen.repeated, seen.disordered)
	}
}
