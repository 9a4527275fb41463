package delivery

import (
	"fmt"
	"slices"

	"kernelgw/jupyter"
	"kernelgw/jupyter/jupytertest"
)

// model is what section 5 of the design makes of a kernel's transcript: what each
// client had to receive. It knows nothing of logs, cursors or sockets.
type model struct {
	public  []jupytertest.Said // on iopub, in their order
	private []jupytertest.Said // on the other channels
	at      map[string]int     // place in public by id
	sum     map[string]uint64  // by id
	bytes   []int              // of public before each place

	// The log may hold so much; when all that is not a stream fits, nothing but
	// streams may be missing.
	streamsOnly bool
}

// newModel takes of a transcript what belongs to the requests of these sessions.
func newModel(said []jupytertest.Said, ours map[string]bool, logBytes int64) *model {
	m := &model{at: make(map[string]int), sum: make(map[string]uint64), bytes: []int{0}}
	dear := 0
	for _, s := range said {
		if !ours[s.Session] {
			continue
		}
		m.sum[s.ID] = s.Sum
		if s.Channel == jupyter.IOPub {
			m.at[s.ID] = len(m.public)
			m.public = append(m.public, s)
			m.bytes = append(m.bytes, m.bytes[len(m.bytes)-1]+s.Size)
		} else {
			m.private = append(m.private, s)
		}
		if s.Type != "stream" {
			dear += 2*s.Size + 1<<10 // two encodings, and more than the log adds
		}
	}
	m.streamsOnly = int64(dear) < logBytes
	return m
}

// place is how far a client has everything, in one possible account of what has
// happened where it cannot see.
type place struct {
	from int // it has all of public before this
	// What is due but was not told to be lost when the client is at q and has
	// got n since: due + q - n. The same in bytes.
	due, dueBytes int
}

// history is what one session received, over all its connections.
type history struct {
	session string
	first   string // its first request
	last    string // its last, whose reply it has got; "" when it stopped in the middle
	conns   []leg
}

// leg is one connection of a history.
type leg struct {
	floor    uint64
	arrivals []arrival
	asked    map[string]int
	end      ending
}

// sure is how many of the answered pings have certainly reached the agent: what
// they acknowledge must not come again. A request that was sent behind a pong
// and has had an effect proves it; so does the answer to a close frame.
func (l *leg) sure() int {
	answered, sure := 0, 0
	for _, a := range l.arrivals {
		switch {
		case a.ping:
			answered++
		default:
			sure = max(sure, l.asked[a.parent])
		}
	}
	if l.end != broken {
		return answered
	}
	return sure
}

// check says what is wrong with a history, "" for nothing.
func (m *model) check(h history) string {
	if problem := m.checkPublic(h); problem != "" {
		return "iopub: " + problem
	}
	return m.checkPrivate(h)
}

// checkPublic follows the order of iopub: each message once and in order, but for
// a replay from a place that the client acknowledged, and what is missing told by
// a marker before the next message that shows anything.
func (m *model) checkPublic(h history) string {
	var places []place
	begin, known := m.at[m.firstID(h.first)]
	if !known {
		return "its first request had no effect"
	}
	for from := range begin + 1 {
		if number(m.public[from].ID) > h.conns[0].floor { // else it is a replay to a new session
			places = append(places, place{from: from, due: -from, dueBytes: -m.bytes[from]})
		}
	}
	for i := range h.conns {
		var problem string
		if places, problem = m.follow(places, &h.conns[i]); problem != "" {
			return fmt.Sprintf("connection %d of %d: %s", i+1, len(h.conns), problem)
		}
	}
	return ""
}

// firstID is the id of the first message that belongs to a request.
func (m *model) firstID(request string) string {
	i := slices.IndexFunc(m.public, func(s jupytertest.Said) bool { return s.ParentID == request })
	if i < 0 {
		return ""
	}
	return m.public[i].ID
}

// follow walks along one connection from each of the places at which it may have
// begun, and returns those at which the next one may begin.
func (m *model) follow(places []place, l *leg) (next []place, problem string) {
	sure, pings := l.sure(), 0
	if sure == 0 {
		next = slices.Clone(places) // it may be that nothing was acknowledged
	}
	got, gotBytes, last := 0, 0, -1
	var told loss
	for _, a := range l.arrivals {
		switch {
		case a.ping:
			if pings++; pings < sure {
				continue
			}
			if pings == sure {
				next = nil
			}
			for _, p := range places {
				next = addPlace(next, place{max(p.from, last+1), p.due - got - told.messages, p.dueBytes - gotBytes - told.bytes})
			}
			continue
		case a.channel != jupyter.IOPub:
			continue
		case a.lost != nil:
			told.messages += a.lost.messages
			told.bytes += a.lost.bytes
			continue
		}
		q, ok := m.at[a.id]
		switch {
		case !ok:
			return nil, fmt.Sprintf("%s %s, which the kernel did not send for a client", a.kind, a.id)
		case a.sum != m.sum[a.id]:
			return nil, fmt.Sprintf("%s %s is not what the kernel sent", a.kind, a.id)
		case q <= last:
			return nil, fmt.Sprintf("message %d after %d", q, last)
		}
		before := places
		places = nil
		for _, p := range before {
			due, dueBytes := p.due+q-got, p.dueBytes+m.bytes[q]-gotBytes
			quiet := m.quiet(q) && told.messages <= due && told.bytes <= dueBytes
			if q >= p.from && (quiet || due == told.messages && dueBytes == told.bytes) {
				places = append(places, p)
			}
		}
		if len(places) == 0 {
			return nil, m.impossible(before, q, got, last, told)
		}
		if problem := m.mayMiss(max(last+1, latest(places)), q); problem != "" {
			return nil, problem
		}
		last = q
		got++
		gotBytes += m.public[q].Size
	}
	return next, ""
}

// quiet messages show nothing where output is: what is lost before them may be
// told after them.
func (m *model) quiet(q int) bool {
	switch m.public[q].Type {
	case "comm_open", "comm_msg", "comm_close":
		return true
	}
	return false
}

func addPlace(places []place, p place) []place {
	if slices.Contains(places, p) {
		return places
	}
	return append(places, p)
}

func latest(places []place) int {
	from := 0
	for _, p := range places {
		from = max(from, p.from)
	}
	return from
}

// mayMiss says what among the messages from one place to another must not be lost.
func (m *model) mayMiss(from, to int) string {
	for q := from; q < to; q++ {
		if s := &m.public[q]; m.streamsOnly && s.Type != "stream" {
			return fmt.Sprintf("message %d, %s, was lost, and streams must go first", q, s.Type)
		}
	}
	return ""
}

// impossible describes a message that no account of what happened explains.
func (m *model) impossible(places []place, q, got, last int, told loss) string {
	p := places[len(places)-1]
	text := fmt.Sprintf("message %d (%s) after %d", q, m.public[q].Type, last)
	switch due := p.due + q - got; {
	case q < p.from && last < 0:
		return fmt.Sprintf("%s: it comes again, and all before %d was acknowledged", text, p.from)
	case told.messages == 0:
		return fmt.Sprintf("%s: %d are missing before it (it begins at %d, or %d places before)", text, due, p.from, len(places)-1)
	default:
		return fmt.Sprintf("%s: markers tell of %d lost messages with %d bytes, but %d with %d are missing",
			text, told.messages, told.bytes, due, p.dueBytes+m.bytes[q])
	}
}

// checkPrivate demands that a session gets each answer to its requests, and nobody
// else's, in order, and again only what may not have been acknowledged.
func (m *model) checkPrivate(h history) string {
	owed := map[string]int{}
	end := 0 // a request that was sent over an older connection may come later than the last
	for i, s := range m.private {
		if s.Session == h.session {
			owed[s.ID] = i
		}
		if s.ParentID == h.last {
			end = i
		}
	}
	had := map[string]bool{} // acknowledged
	got := map[string]bool{}
	for i := range h.conns {
		l := &h.conns[i]
		sure, pings, last := l.sure(), 0, map[jupyter.Channel]int{}
		var since []string
		for _, a := range l.arrivals {
			if a.ping {
				if pings++; pings <= sure {
					for _, id := range since {
						had[id] = true
					}
					since = nil
				}
				continue
			}
			if a.channel == jupyter.IOPub {
				continue
			}
			at, mine := owed[a.id]
			switch {
			case !mine:
				return fmt.Sprintf("%s on %s, which is not for this session", a.kind, a.channel)
			case a.sum != m.sum[a.id]:
				return fmt.Sprintf("%s on %s is not what the kernel sent", a.kind, a.channel)
			case had[a.id]:
				return fmt.Sprintf("%s on %s came again after it was acknowledged", a.kind, a.channel)
			case at+1 <= last[a.channel]:
				return fmt.Sprintf("%s on %s is out of order", a.kind, a.channel)
			}
			last[a.channel] = at + 1
			got[a.id] = true
			since = append(since, a.id)
		}
	}
	for id, at := range owed {
		if at < end && !got[id] {
			return fmt.Sprintf("%s on %s never came", m.private[at].Type, m.private[at].Channel)
		}
	}
	return ""
}
