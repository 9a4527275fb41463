package filesync

import (
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// noticesAMinute bounds what users are told: a kernel can make any number of
// files that cannot be saved.
const noticesAMinute = 10

// notices tells the user what cannot be done, once for each subject.
type notices struct {
	tell func(string)
	log  *slog.Logger

	mu        sync.Mutex
	said      map[string]bool // guarded by mu; subjects since the minute began
	minute    time.Time       // guarded by mu
	last      string          // guarded by mu
	conflicts int             // guarded by mu
}

// say tells something about a subject, a path or a short word.
func (n *notices) say(subject, text string) {
	n.mu.Lock()
	if now := time.Now(); now.Sub(n.minute) > time.Hour || n.said == nil {
		n.said, n.minute = map[string]bool{}, now
	} else if now.Sub(n.minute) > time.Minute && len(n.said) >= noticesAMinute {
		n.said, n.minute = map[string]bool{}, now
	}
	if n.said[subject] || len(n.said) >= noticesAMinute {
		n.mu.Unlock()
		return
	}
	n.said[subject] = true
	if len(n.said) == noticesAMinute {
		text += " (and maybe others; no more is said for a while)"
	}
	n.last = text
	n.mu.Unlock()
	n.log.Warn("files", "notice", text)
	n.tell(text)
}

// conflict tells that two versions of a file were kept.
func (n *notices) conflict(p, aside string) {
	n.mu.Lock()
	n.conflicts++
	n.mu.Unlock()
	n.say(p, fmt.Sprintf("%q was changed in the workspace and in the sandbox at the same time: the sandbox's version is now %q", p, aside))
}

func (n *notices) summary() (conflicts int, last string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.conflicts, n.last
}
