// Package outputs makes what a notebook keeps of a cell's execution, its outputs
// and its number, from the messages of that execution, as JupyterLab 4.6 does it
// (packages/outputarea). It knows nothing of sockets, kernels and files, and
// needs only the standard library.
//
// It leaves out what JupyterLab keeps elsewhere: the state of widgets, and what a
// user typed where the cell asked for input.
package outputs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf8"

	"kernelgw/jupyter"
)

// Options configure a Collector.
type Options struct {
	// MaxBytes bounds what is kept. Streams are cut at three quarters of it, so
	// that a result behind a flood has a place; displays and results that do not
	// fit are left out. One stderr output at the place of the first loss says how
	// much it was. Errors are kept beyond it: 1 MiB of them. Zero means
	// DefaultMaxBytes.
	MaxBytes int
}

// DefaultMaxBytes is the default of Options.
const DefaultMaxBytes = 16 << 20

// Bounds on what is kept beside the budget.
const (
	overhead    = 256      // what an output costs beside its own bytes
	maxError    = 64 << 10 // bytes of an error that does not fit any more
	maxErrors   = 16       // of those; the rest is counted as lost
	maxNameSize = 1 << 10  // bytes of a stream's name, and of a display's id
)

// Collector collects the outputs of one execution. The time for all messages is
// linear in their size. Make one with New; it is not safe for concurrent use.
type Collector struct {
	limit int // set at construction

	list     []*output
	used     int                  // bytes of list
	displays map[string][]*output // by display_id
	clearing bool                 // by the next output
	full     bool                 // streams are cut
	lost     *output              // the one that tells of the loss; nil when there was none
	messages int                  // lost
	bytes    int                  // of those
	squeezed int                  // errors that were cut

	count  int64 // valid if counted
	counts bool
	status string
	failed *Error
}

// output is one output: a stream, the notice of a loss, or any other as JSON.
type output struct {
	stream string // its name; "" for none
	text   screen
	json   []byte
}

func (o *output) size() int { return overhead + len(o.stream) + o.text.size() + len(o.json) }

// Error is how an execution failed.
type Error struct {
	Name      string   `json:"name"`
	Value     string   `json:"value"`
	Traceback []string `json:"traceback"`
}

// Display is what a display with an id shows now. The zero value says nothing.
type Display struct {
	ID   string
	json []byte
}

// New returns a Collector without outputs.
func New(o Options) *Collector {
	if o.MaxBytes <= 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	return &Collector{limit: o.MaxBytes, displays: make(map[string][]*output)}
}

// Take takes the next message of the execution: an iopub message, or the reply
// to the request. What makes no output is ignored, as is what is not JSON. If the
// message says what a display shows, that is returned: other cells may show the
// same one (Show). The Collector keeps nothing of the message's memory.
func (c *Collector) Take(m *jupyter.Message) Display {
	content, msgType := m.Content, jupyter.PeekRaw(m.Header, "msg_type")
	if !utf8.Valid(content) {
		content = bytes.ToValidUTF8(content, []byte("\ufffd"))
	}
	if m.Channel == jupyter.IOPub && string(msgType) == `"stream"` { // does not allocate
		c.stream(content) // which looks at two strings only
		return Display{}
	}
	if !json.Valid(content) {
		return Display{}
	}
	if m.Channel != jupyter.IOPub {
		if string(msgType) == `"execute_reply"` {
			c.reply(content)
		}
		return Display{}
	}
	switch string(msgType) {
	case `"display_data"`:
		return c.display(content)
	case `"update_display_data"`:
		shown := shownBy(content)
		c.Show(shown)
		return shown
	case `"execute_result"`:
		c.add(&output{json: resultJSON(content)}, len(content))
		c.number(content)
	case `"error"`:
		c.failed = errorOf(content)
		c.Fail(c.failed)
	case `"clear_output"`:
		if string(jupyter.PeekRaw(content, "wait")) == "true" {
			c.clearing = true
		} else {
			c.clear()
		}
	case `"execute_input"`:
		c.number(content)
	}
	return Display{}
}

func (c *Collector) number(content []byte) {
	if n, err := strconv.ParseInt(string(jupyter.PeekRaw(content, "execution_count")), 10, 64); err == nil {
		c.count, c.counts = n, true
	}
}

func (c *Collector) reply(content []byte) {
	c.number(content)
	c.status = jupyter.PeekString(content, "status")
	switch c.status {
	case "ok":
		if page := pageOf(content); page != nil {
			c.add(&output{json: page}, len(page))
		}
	case "error":
		// A silent execution has its error only here.
		if c.failed == nil {
			c.failed = errorOf(content)
		}
	}
}

func (c *Collector) stream(content []byte) {
	name, raw := jupyter.PeekString(content, "name"), jupyter.PeekRaw(content, "text")
	if name == "" || len(name) > maxNameSize || len(raw) == 0 {
		return
	}
	text := joined(raw)
	c.clearNow()
	limit := c.limit - c.limit/4
	last := c.last()
	if last == nil || last.stream != name || last == c.lost {
		c.full = c.full || !c.fits(overhead+len(name)+1, limit)
		if c.full {
			c.lose(len(text))
			return
		}
		last = &output{stream: name}
		c.push(last)
	}
	// Piece by piece: what overwrites what was there needs no more room.
	for len(text) > 0 && !c.full {
		piece := prefix(text, limit-c.used)
		before := last.size()
		last.text.write(piece)
		c.used += last.size() - before
		text = text[len(piece):]
		c.full = piece == ""
	}
	if len(text) > 0 {
		c.lose(len(text))
	}
}

// prefix returns as much of s as room holds, whole runes.
func prefix(s string, room int) string {
	if len(s) <= room {
		return s
	}
	for room > 0 && !utf8.RuneStart(s[room]) {
		room--
	}
	return s[:max(room, 0)]
}

func (c *Collector) display(content []byte) Display {
	shown := shownBy(content)
	c.Show(shown) // as JupyterLab does with one that was there before
	o := &output{json: displayJSON(content)}
	if c.add(o, len(content)) && shown.ID != "" {
		c.displays[shown.ID] = append(c.displays[shown.ID], o)
		c.used += len(shown.ID)
	}
	return shown
}

// Show changes the displays with that id, if there are any, to what they show
// now. It reports whether there were any.
func (c *Collector) Show(d Display) bool {
	if d.ID == "" {
		return false
	}
	for _, o := range c.displays[d.ID] {
		if grown := len(d.json) - len(o.json); grown > 0 && !c.fits(grown, c.limit) {
			c.lose(len(d.json))
			continue
		}
		c.used += len(d.json) - len(o.json)
		o.json = d.json
	}
	return len(c.displays[d.ID]) > 0
}

// Fail adds an error. It is kept also when there is no room left, cut short if
// need be.
func (c *Collector) Fail(e *Error) {
	c.clearNow()
	c.failed = e
	o := &output{json: errorJSON(e)}
	if !c.fits(o.size(), c.limit) {
		if c.squeezed == maxErrors {
			c.lose(len(o.json))
			return
		}
		c.squeezed++
		o.json = errorJSON(e.Shortened(maxError))
	}
	c.push(o)
}

// add adds an output of a message of so many bytes if there is room, and reports
// whether there is.
func (c *Collector) add(o *output, bytes int) bool {
	c.clearNow()
	if !c.fits(o.size(), c.limit) {
		c.lose(bytes)
		return false
	}
	c.push(o)
	return true
}

func (c *Collector) fits(more, limit int) bool { return c.used+more <= limit }

func (c *Collector) push(o *output) {
	c.list = append(c.list, o)
	c.used += o.size()
}

func (c *Collector) last() *output {
	if len(c.list) == 0 {
		return nil
	}
	return c.list[len(c.list)-1]
}

// lose counts a message, or the rest of one, that is not kept. The notice stands where the first of it was.
func (c *Collector) lose(bytes int) {
	if c.lost == nil {
		c.lost = &output{stream: "stderr"}
		c.push(c.lost)
	}
	c.messages++
	c.bytes += bytes
}

// clearNow does what a clear_output put off.
func (c *Collector) clearNow() {
	if c.clearing {
		c.clear()
	}
}

func (c *Collector) clear() {
	c.list, c.used, c.clearing, c.full = nil, 0, false, false
	c.lost, c.messages, c.bytes, c.squeezed = nil, 0, 0, 0
	clear(c.displays)
}

// Append appends the outputs to b: a JSON array of outputs in nbformat 4.
func (c *Collector) Append(b []byte) []byte {
	b = append(b, '[')
	for i, o := range c.list {
		if i > 0 {
			b = append(b, ',')
		}
		switch {
		case o == c.lost:
			b = appendStream(b, o.stream, fmt.Sprintf("output truncated: %d messages, %d bytes\n", c.messages, c.bytes))
		case o.stream != "":
			b = appendStream(b, o.stream, o.text.String())
		default:
			b = append(b, o.json...)
		}
	}
	return append(b, ']')
}

// Size is how many bytes the Collector keeps.
func (c *Collector) Size() int { return c.used }

// ExecutionCount returns the number that the kernel gave the execution, if it
// did.
func (c *Collector) ExecutionCount() (n int64, ok bool) { return c.count, c.counts }

// Status is that of the reply: "ok", "error" or "aborted"; "" while there is
// none.
func (c *Collector) Status() string { return c.status }

// Failed is the last error of the execution, nil when there was none.
func (c *Collector) Failed() *Error { return c.failed }
