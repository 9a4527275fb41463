package kernelgw

import (
	"testing"
	"testing/synctest"
	"time"
)

// A transfer that moves may take for ever; one that dribbles may not.
func TestDeadlineOfATransferMovesWithItsBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		for name, c := range map[string]struct {
			perSecond int
			survives  bool
		}{
			"a fast network":  {10 << 20, true},
			"a slow network":  {20 << 10, true},
			"a slow loris":    {1, false},
			"a dribble":       {4 << 10, false},
			"nothing at all":  {0, false},
			"exactly as slow": {slowestTransfer, true},
		} {
			deadline := begin.Add(bodyTimeout)
			pace := steady{
				set:      func(to time.Time) error { deadline = to; return nil },
				patience: bodyTimeout, started: begin,
			}
			survived := true
			for now := begin; now.Before(begin.Add(time.Hour)) && survived; now = now.Add(time.Second) {
				if survived = !now.After(deadline); survived {
					pace.moved(c.perSecond)
				}
			}
			if survived != c.survives {
				t.Errorf("%s goes on: %v", name, survived)
			}
		}
	})
}
