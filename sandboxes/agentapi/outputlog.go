package agentapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// OutputCaps are budgets of what a kernel shows: streams and display data, each
// message as long as its content and buffers are. What is past one reaches neither
// the event log nor any client; in its place is one message on stderr that says how
// much it was. Zero means no budget.
type OutputCaps struct {
	// CellBytes is what the output of one cell may come to. What clear_output
	// removes, and what an update puts in the place of something, counts no more.
	CellBytes int64 `json:"cell_bytes,omitempty"`
	// SecondBytes is for all cells together in a second, on the average of CapSeconds.
	SecondBytes int64 `json:"second_bytes,omitempty"`
}

// CapSeconds is over how many seconds OutputCaps.SecondBytes is an average: so many
// times as much may come at once after quiet.
const CapSeconds = 10

// OutputLogConfig has an agent keep the text of all streams, that past the budgets
// too, until the gateway has fetched it:
//
//	POST   /v1/log/seal        204, when all that was printed before is in parts that can be fetched
//	GET    /v1/log/parts       200, for the oldest part: a line of OutputLogPart, then the part; 204 when there is none
//	DELETE /v1/log/parts/{n}   204: the part of that number, and those before, are stored
//
// Parts are gzip files, made when one is large or old enough, or is asked for.
// Status.LogParts says how many wait. When the kernel is shut down, the agent waits
// some seconds for the last to be fetched.
type OutputLogConfig struct {
	// SpoolBytes bounds the parts that wait, compressed. Text for which there is no
	// room is missing: the next part says where it begins. Zero means
	// DefaultSpoolBytes.
	SpoolBytes int64 `json:"spool_bytes,omitempty"`
	// Place is where users find the text, as marks of what is missing tell them.
	Place string `json:"place"`
}

// DefaultSpoolBytes is that of OutputLogConfig.
const DefaultSpoolBytes = 64 << 20

// OutputLogPart describes a part of the text that a kernel has printed.
type OutputLogPart struct {
	Number int64     `json:"number"` // 1, 2, 3, ...
	From   int64     `json:"from"`   // bytes of text before it, those that are missing too
	Bytes  int64     `json:"bytes"`  // of text in it
	Size   int64     `json:"size"`   // as it is, compressed
	Begun  time.Time `json:"begun"`  // when the first of it was printed
}

// Limits of a part.
const (
	// OutputPartSize is the size from which a part is made. One is at most
	// MaxOutputPartSize.
	OutputPartSize    = 4 << 20
	MaxOutputPartSize = OutputPartSize + 1<<20
	// OutputPartBytes is the text that a part holds at most.
	OutputPartBytes = 64 << 20
	// MaxOutputParts bounds the numbers, and MaxOutputText the text, of one kernel.
	MaxOutputParts = 99_999_999
	MaxOutputText  = 1 << 50
)

// Check returns ErrLies for what no part can be.
func (p OutputLogPart) Check() error {
	switch {
	case p.Number < 1 || p.Number > MaxOutputParts,
		p.From < 0 || p.From > MaxOutputText || p.Bytes < 0 || p.Bytes > OutputPartBytes,
		p.Size < 1 || p.Size > MaxOutputPartSize:
		return fmt.Errorf("%w: a part of output that cannot be", ErrLies)
	}
	return nil
}

const (
	// sealTimeout is for an agent that makes parts on demand every few seconds only.
	sealTimeout = 20 * time.Second
	// partTimeout is for a whole part: whoever waits for an agent's holds a place of its
	// owner's.
	partTimeout = 10 * time.Second
	// firstPart is the memory that a part has before any of it has come.
	firstPart = 64 << 10
)

// SealLog has the agent make a part of what was printed until now.
func (c *Client) SealLog(ctx context.Context) error {
	_, err := call[struct{}](ctx, c, http.MethodPost, "/v1/log/seal", sealTimeout)
	return err
}

// ErrNoPart: no part of output waits to be fetched.
var ErrNoPart = errors.New("no part of output waits")

// LogPart fetches the oldest part of output that waits. ErrNoPart.
func (c *Client) LogPart(ctx context.Context) (p OutputLogPart, content []byte, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, partTimeout, errSilent)
	defer cancel()
	resp, err := c.roundTrip(ctx, http.MethodGet, "/v1/log/parts", nil)
	if err != nil {
		return p, nil, fmt.Errorf("cannot fetch output: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNoContent {
		return p, nil, ErrNoPart
	}
	p, content, err = readOutputPart(resp.Body)
	if err != nil && !errors.Is(err, ErrLies) {
		err = explain(ctx, err)
	}
	if err != nil {
		return OutputLogPart{}, nil, fmt.Errorf("cannot fetch output: %w", err)
	}
	return p, content, nil
}

// readOutputPart reads a part and the line before it. The error is ErrLies, or that
// of the answer.
func readOutputPart(answer io.Reader) (p OutputLogPart, content []byte, err error) {
	p, rest, err := readLine[OutputLogPart](answer, MaxLineBytes, "part of output")
	if err == nil {
		err = p.Check()
	}
	if err != nil {
		return p, nil, err
	}
	// Memory that doubles: an agent that sends none of what it says costs none.
	for have := 0; have < int(p.Size); {
		larger := make([]byte, min(int(p.Size), max(firstPart, 2*have)))
		copy(larger, content)
		content = larger
		n, err := io.ReadFull(rest, content[have:])
		have += n
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return p, content[:have], err
		}
	}
	return p, content, nil
}

// LogStored tells the agent that the parts up to a number are stored.
func (c *Client) LogStored(ctx context.Context, number int64) error {
	_, err := call[struct{}](ctx, c, http.MethodDelete, "/v1/log/parts/"+strconv.FormatInt(number, 10), callTimeout)
	return err
}
