// Package jupyter knows the Jupyter messaging protocol: channels, messages,
// signatures, kernel states and kernelspecs. It knows nothing of sockets,
// servers or sandboxes, and needs only the standard library.
//
// Source of names: "Messaging in Jupyter", protocol version 5.4.
package jupyter

// Channel is one of the four message channels of a kernel that clients see.
type Channel string

// The channels of "Messaging in Jupyter", section "Introduction". The
// heartbeat channel carries no messages and is not listed.
const (
	Shell   Channel = "shell"
	Control Channel = "control"
	Stdin   Channel = "stdin"
	IOPub   Channel = "iopub"
)

// Message is one Jupyter message as it travels: the four JSON parts are kept
// byte for byte, because signatures and clients depend on the exact bytes.
// A Message does not own its slices unless its maker says so.
type Message struct {
	Channel      Channel
	Header       []byte // JSON object
	ParentHeader []byte // JSON object, "{}" when there is no parent
	Metadata     []byte // JSON object
	Content      []byte // JSON object
	Buffers      [][]byte
}

// Size is the number of payload bytes of the message, for byte budgets.
func (m *Message) Size() int {
	n := len(m.Header) + len(m.ParentHeader) + len(m.Metadata) + len(m.Content)
	for _, b := range m.Buffers {
		n += len(b)
	}
	return n
}

// Header is the decoded header of a message. The date is opaque: clients send
// several forms, and none is parsed or rewritten.
type Header struct {
	MsgID    string `json:"msg_id"`
	MsgType  string `json:"msg_type"`
	Session  string `json:"session"`
	Username string `json:"username"`
	Date     string `json:"date"`
	Version  string `json:"version"`
}

// State is an execution state as it appears in iopub status messages.
type State string

// The only states that are valid on iopub; clients throw away any other.
const (
	Starting   State = "starting"
	Idle       State = "idle"
	Busy       State = "busy"
	Restarting State = "restarting"
	Dead       State = "dead"
)
