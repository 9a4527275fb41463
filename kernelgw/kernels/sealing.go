package kernels

import (
	"context"
	"time"

	"golang.org/x/time/rate"
)

// sealPace is how often those who ask for a log have what was printed last made a part,
// however large it is. One who asks again and again, to follow the log, must not have it
// cut to pieces: each counts, and the oldest go for them.
type sealPace struct {
	one   chan struct{} // holds a token while an agent is asked: one at a time
	paced *rate.Limiter // of parts that came of it

	// owned by the holder of one
	at     time.Time // before the last seal was asked for
	failed error     // why nothing came of it
}

// The first are made at once, later ones now and then.
const (
	sealFirst = 20
	sealEvery = 30 * time.Second
)

func newSealPace() *sealPace {
	return &sealPace{one: make(chan struct{}, 1), paced: rate.NewLimiter(rate.Every(sealEvery), sealFirst)}
}

// seal has work seal what was printed before the call, unless somebody else does, and
// waits before that while there were too many parts lately. work reports whether parts
// came of it.
func (p *sealPace) seal(ctx context.Context, work func(context.Context) (parts bool, err error)) error {
	asked := time.Now()
	leave, err := enter(ctx, p.one, nil)
	if err != nil {
		return err
	}
	defer leave()
	if p.at.After(asked) {
		return p.failed
	}
	if err := p.paced.WaitN(ctx, 0); err != nil { // as long as there is a debt
		return err
	}
	begun := time.Now()
	parts, err := work(ctx)
	if parts {
		p.paced.ReserveN(time.Now(), 1)
	}
	if ctx.Err() == nil { // else it is the caller who is gone
		p.at, p.failed = begun, err
	}
	return err
}
