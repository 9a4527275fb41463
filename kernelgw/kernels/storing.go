package kernels

import (
	"context"
	"errors"
)

// storePlaces bound how many parts of output are in memory, and how many are being
// stored. Nobody holds one of them while an agent is waited for: that costs its owner's
// places alone, and memory for no more than the agent has sent. So they are had for as
// long as the storage takes, whatever agents do.
type storePlaces struct {
	perOwner
	whole, lastWhole     chan struct{} // hold a token for each part that has come, until it is stored
	writing, lastWriting chan struct{} // hold a token for each that is being stored
}

// Parts of kernels that end have places of their own beside the others.
const (
	maxWhole       = 16
	maxLastWhole   = 8
	maxStoring     = 8
	maxLastStoring = 4
)

func newStorePlaces() *storePlaces {
	return &storePlaces{
		perOwner: perOwner{byOwner: map[saver]*ownerPlaces{}},
		whole:    make(chan struct{}, maxWhole), lastWhole: make(chan struct{}, maxLastWhole),
		writing: make(chan struct{}, maxStoring), lastWriting: make(chan struct{}, maxLastStoring),
	}
}

// errStoringMuch is why a part that has come is let go again: its agent still has it.
var errStoringMuch = errors.New("too many others wait for the storage")

// store waits for a place to store a part that has come, which the caller must leave.
func (p *storePlaces) store(ctx context.Context, last bool) (leave func(), err error) {
	var leaveWhole func()
	select {
	case p.whole <- struct{}{}:
		leaveWhole = func() { <-p.whole }
	case reserve(last, p.lastWhole) <- struct{}{}:
		leaveWhole = func() { <-p.lastWhole }
	default:
		return nil, errStoringMuch
	}
	leaveWriting, err := enter(ctx, p.writing, reserve(last, p.lastWriting))
	if err != nil {
		leaveWhole()
		return nil, err
	}
	return func() { leaveWriting(); leaveWhole() }, nil
}
