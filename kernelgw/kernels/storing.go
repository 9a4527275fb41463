package kernels

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// storePlaces bound how many parts of output are in memory, and how many are being
// stored. Nobody holds one of them while an agent is waited for: that costs its owner's
// places alone, and memory for no more than the agent has sent. So they are had for as
// long as the storage takes, whatever agents do.
type storePlaces struct {
	perOwner
	whole, lastWhole     chan struct{} // hold a token for each part that has come, until it is stored
	writing, lastWriting chan struct{} // hold a token for each that is being stored

	pacing sync.Mutex
	paces  map[string]*rate.Limiter // in bytes, by owner; guarded by pacing
}

// Parts of kernels that end have places of their own beside the others.
const (
	maxWhole       = 16
	maxLastWhole   = 8
	maxStoring     = 8
	maxLastStoring = 4
)

// How much of what one owner's kernels print is taken, as it comes, compressed. What
// they print faster does not fit into what their agents keep, and is missing.
const (
	storeBytes = 16 << 20 // a second
	storeBurst = 64 << 20
)

func newStorePlaces() *storePlaces {
	return &storePlaces{
		perOwner: perOwner{byOwner: map[saver]*ownerPlaces{}},
		whole:    make(chan struct{}, maxWhole), lastWhole: make(chan struct{}, maxLastWhole),
		writing: make(chan struct{}, maxStoring), lastWriting: make(chan struct{}, maxLastStoring),
		paces: map[string]*rate.Limiter{},
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

// pace is that of an owner. Those that rest are forgotten.
func (p *storePlaces) pace(owner string) *rate.Limiter {
	p.pacing.Lock()
	defer p.pacing.Unlock()
	if pace := p.paces[owner]; pace != nil {
		return pace
	}
	for other, pace := range p.paces {
		if pace.Tokens() >= storeBurst {
			delete(p.paces, other)
		}
	}
	p.paces[owner] = rate.NewLimiter(storeBytes, storeBurst)
	return p.paces[owner]
}

// waitPace waits until another part of an owner's may come.
func (p *storePlaces) waitPace(ctx context.Context, owner string) error {
	if err := p.pace(owner).WaitN(ctx, 0); err != nil { // as long as there is a debt
		return fmt.Errorf("its owner's kernels print too much: %w", err)
	}
	return nil
}

// spent takes note of a part of an owner's that has come: only then its size is known.
func (p *storePlaces) spent(owner string, size int) {
	p.pace(owner).ReserveN(time.Now(), size)
}
