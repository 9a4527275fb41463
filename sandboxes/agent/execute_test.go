package agent

import (
	"slices"
	"strings"
	"testing"

	"kernelgw/jupyter/wsproto"
)

func TestCellRunsInEveryEncoding(t *testing.T) {
	r := start(t, nil)
	for _, enc := range []wsproto.Encoding{wsproto.V1, wsproto.Legacy, wsproto.LegacyText} {
		t.Run(enc.String(), func(t *testing.T) {
			p := r.connect("session-"+enc.String(), enc)
			id := p.execute("say hello\necho 42")
			all := p.cell(id)
			var types []string // of iopub: the reply comes by another socket, at any time
			for _, m := range all {
				if m.Parent.MsgID != id {
					t.Errorf("a message of another parent: %+v", m)
				}
				if m.MsgID == "" || m.MsgID != m.Header.MsgID || m.MsgType != m.Header.MsgType {
					t.Errorf("top-level msg_id %q and msg_type %q, header %+v", m.MsgID, m.MsgType, m.Header)
				}
				if m.MsgType == "stream" && m.text() != "hello\n" {
					t.Errorf("printed %q", m.text())
				}
				if m.Channel == "iopub" {
					types = append(types, m.MsgType)
				}
			}
			if got, want := strings.Join(types, " "), "status execute_input stream execute_result status"; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

func TestBuffersReachEachEncoding(t *testing.T) {
	r := start(t, nil)
	for _, c := range []struct {
		enc     wsproto.Encoding
		buffers int
		binary  bool
	}{{wsproto.V1, 3, true}, {wsproto.Legacy, 3, true}, {wsproto.LegacyText, 0, false}} {
		t.Run(c.enc.String(), func(t *testing.T) {
			p := r.connect("session-"+c.enc.String(), c.enc)
			found := false
			for _, m := range p.cell(p.execute("comm 3 1000")) {
				if m.MsgType != "comm_msg" {
					continue
				}
				found = true
				if len(m.Buffers) != c.buffers || m.binary != c.binary {
					t.Errorf("comm_msg has %d buffers in a binary frame %v, want %d, %v", len(m.Buffers), m.binary, c.buffers, c.binary)
				}
				for _, b := range m.Buffers {
					if len(b) != 1000 {
						t.Errorf("a buffer of %d bytes, want 1000", len(b))
					}
				}
			}
			if !found {
				t.Error("no comm_msg came")
			}
		})
	}
}

func TestRepliesReachOnlyTheAsker(t *testing.T) {
	r := start(t, nil)
	asker, other := r.connect("asker", wsproto.V1), r.connect("other", wsproto.Legacy)
	id := asker.execute("input name?")
	asked := asker.until("input_request", func(m received) bool { return m.MsgType == "input_request" })
	if m := asked[len(asked)-1]; m.Channel != "stdin" || m.Parent.MsgID != id {
		t.Errorf("input_request came on %s for %s", m.Channel, m.Parent.MsgID)
	}
	asker.send("stdin", "input_reply", map[string]any{"value": "Ada"})
	all := append(asked, asker.cell(id)...)
	printed := ""
	for _, m := range all {
		printed += m.text()
	}
	if !strings.Contains(printed, "Ada") {
		t.Errorf("the cell printed %q, not what was put in", printed)
	}
	for _, m := range other.until("idle", func(m received) bool { return isStatus(m, "idle") && m.Parent.MsgID == id }) {
		if m.Channel != "iopub" {
			t.Errorf("another client got %s on %s", m.MsgType, m.Channel)
		}
	}
	// Also not later: its own cell comes next.
	for _, m := range other.cell(other.execute("say x")) {
		if m.Parent.MsgID == id {
			t.Errorf("another client got %s on %s", m.MsgType, m.Channel)
		}
	}
}

func TestClientsThatShareAHeaderSessionGetTheirOwnReplies(t *testing.T) {
	r := start(t, nil)
	a, b := r.connect("", wsproto.LegacyText), r.connect("", wsproto.LegacyText)
	b.session = a.session
	first, second := a.execute("say a"), b.execute("say b")
	a.cell(first)
	b.cell(second)
}

func TestAgentsOwnRequestsReachNoClient(t *testing.T) {
	r := start(t, nil)
	p := r.connect("s", wsproto.V1) // before the kernel is ready
	for _, m := range p.cell(p.execute("say x")) {
		if m.MsgType == "kernel_info_reply" || m.Parent.MsgType == "kernel_info_request" {
			t.Errorf("a client got %s on %s for a request that it did not make", m.MsgType, m.Channel)
		}
	}
}

func TestMessagesWaitForTheKernelInOrder(t *testing.T) {
	r := start(t, nil)
	p := r.connect("s", wsproto.V1)
	info := p.send("shell", "kernel_info_request", map[string]any{})
	var ids []string
	for range 5 {
		ids = append(ids, p.execute("say x"))
	}
	replies := map[string]int{}
	idle := []string{}
	p.until("all", func(m received) bool {
		if m.Channel == "shell" {
			replies[m.Parent.MsgID]++
		}
		if isStatus(m, "idle") {
			idle = append(idle, m.Parent.MsgID)
		}
		return len(replies) == 6 && len(idle) == 6
	})
	if want := append([]string{info}, ids...); !slices.Equal(idle, want) {
		t.Errorf("done in the order %v, want %v", idle, want)
	}
}

func TestClientsKernelInfoHasStatusMessages(t *testing.T) {
	r := start(t, nil)
	p := r.connect("s", wsproto.V1)
	p.cell(p.send("shell", "kernel_info_request", map[string]any{}))
}
