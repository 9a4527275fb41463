package jupyter

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// ProtocolVersion is the version of the messaging protocol that the messages
// made here declare.
const ProtocolVersion = "5.4"

// NewID returns a random message or session id, in the form of jupyter_client:
// 32 lower-case hexadecimal digits.
func NewID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	return hex.EncodeToString(b[:])
}

// NewHeader returns a complete header with a fresh msg_id and the present time:
// JavaScript clients throw away a message of which a header field is missing or
// no string.
func NewHeader(msgType, session string) Header {
	return Header{
		MsgID:    NewID(),
		MsgType:  msgType,
		Session:  session,
		Username: "kernelgw",
		Date:     time.Now().UTC().Format("2006-01-02T15:04:05.000000Z"),
		Version:  ProtocolVersion,
	}
}

// NewMessage returns a message with a fresh header, the parent header {} and
// empty metadata. content is anything that encoding/json makes a JSON object
// of; nil stands for {}. An error is that of encoding/json. The message owns
// its bytes.
func NewMessage(channel Channel, msgType, session string, content any) (*Message, error) {
	m := &Message{
		Channel:      channel,
		ParentHeader: []byte("{}"),
		Metadata:     []byte("{}"),
		Content:      []byte("{}"),
	}
	var err error
	if m.Header, err = json.Marshal(NewHeader(msgType, session)); err != nil {
		return nil, fmt.Errorf("cannot encode the header of %s: %w", msgType, err)
	}
	if content != nil {
		if m.Content, err = json.Marshal(content); err != nil {
			return nil, fmt.Errorf("cannot encode the content of %s: %w", msgType, err)
		}
	}
	return m, nil
}

// NewStatus returns the iopub status message by which a server itself tells
// that a kernel restarts or is dead ("Messaging in Jupyter", section "Kernel
// status"). session must be the kernel's own: JupyterLab drops queued messages
// whose session is not the latest one that it saw. The parent header is {},
// because null breaks the status handling of clients.
func NewStatus(state State, session string) *Message {
	return mustMessage(IOPub, "status", session, struct {
		ExecutionState State `json:"execution_state"`
	}{state})
}

// NewStream returns an iopub stream message, as a server sends it to say
// something in the place of output. name is "stdout" or "stderr"; parentHeader
// is the header of the request whose cell shows the text, nil for none.
func NewStream(name, text, session string, parentHeader []byte) *Message {
	m := mustMessage(IOPub, "stream", session, struct {
		Name string `json:"name"`
		Text string `json:"text"`
	}{name, text})
	if len(parentHeader) > 0 {
		m.ParentHeader = parentHeader
	}
	return m
}

// mustMessage is NewMessage for content that is made of strings only, which
// encoding/json cannot refuse.
func mustMessage(channel Channel, msgType, session string, content any) *Message {
	m, err := NewMessage(channel, msgType, session, content)
	if err != nil {
		panic(err)
	}
	return m
}
