package agentapi

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"
	"unicode/utf8"
)

// Limits on what is told of cells.
const (
	MaxCellID       = 256 // bytes; nbformat allows 64
	MaxUnsavedCells = 1000
	MaxUnsavedBytes = 32 << 20 // of an answer
)

// unsavedPatience is how long an agent may take to collect what cells put out.
const unsavedPatience = 30 * time.Second

// UnsavedCell is a cell of a document, the last run of which put out what nobody
// has got and can save: its client is away.
type UnsavedCell struct {
	Run            uint64          `json:"run"`             // a number of its own, the same as long as the cell is not run again
	Cell           string          `json:"cell"`            // as the execute request named it
	SourceSHA256   string          `json:"source_sha256"`   // of the text that was run, hex
	ExecutionCount *int            `json:"execution_count"` // nil when it is not known
	Outputs        json.RawMessage `json:"outputs"`         // a list, as nbformat has it
	Until          uint64          `json:"until"`           // number of the last event that was looked at for them
	Running        bool            `json:"running"`         // there will be more
	Seen           bool            `json:"seen"`            // its client had got all of it before it went, and may have saved it
	EndedAgo       time.Duration   `json:"ended_ago"`       // since when it has not been running; at least 0
}

// SavedCell says what became of an UnsavedCell.
type SavedCell struct {
	Run   uint64 `json:"run"`
	Until uint64 `json:"until"` // as it was told: what came since is still to be saved
	Drop  bool   `json:"drop"`  // there is no cell in which it could be saved
}

// Unsaved returns the cells whose outputs are to be saved now; all of them says
// that there will be no later. What does not fit into one answer is told when the
// rest is saved.
func (c *Client) Unsaved(ctx context.Context, all bool) ([]UnsavedCell, error) {
	path := "/v1/unsaved"
	if all {
		path += "?all=1"
	}
	ctx, cancel := context.WithTimeoutCause(ctx, unsavedPatience, errSilent)
	defer cancel()
	resp, err := c.roundTrip(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot ask the agent for outputs: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, MaxUnsavedBytes+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot ask the agent for outputs: %w", explain(ctx, err))
	case len(answer) > MaxUnsavedBytes:
		return nil, fmt.Errorf("cannot ask the agent for outputs: %w: an answer of more than %d bytes", ErrLies, MaxUnsavedBytes)
	}
	var cells []UnsavedCell
	if err := json.Unmarshal(answer, &cells); err != nil {
		return nil, fmt.Errorf("cannot ask the agent for outputs: %w: the answer is not what was asked for", ErrLies)
	}
	if len(cells) > MaxUnsavedCells || slices.ContainsFunc(cells, func(u UnsavedCell) bool { return !u.valid() }) {
		return nil, fmt.Errorf("cannot ask the agent for outputs: %w: cells that cannot be", ErrLies)
	}
	return cells, nil
}

func (u *UnsavedCell) valid() bool {
	sum, err := hex.DecodeString(u.SourceSHA256)
	return err == nil && len(sum) == 32 && u.Cell != "" && len(u.Cell) <= MaxCellID && utf8.ValidString(u.Cell) && u.EndedAgo >= 0
}

// CellsSaved tells what became of cells.
func (c *Client) CellsSaved(ctx context.Context, cells []SavedCell) error {
	_, err := send[struct{}](ctx, c, http.MethodPost, "/v1/unsaved", cells, callTimeout)
	return err
}
