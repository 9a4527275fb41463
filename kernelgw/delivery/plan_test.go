package delivery

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"kernelgw/jupyter/wsproto"
)

// plan is what happens to a world.
type plan struct {
	LogBytes int64
	SSE      bool // the follower's stream
	Legacy   []bool
	Steps    []step
}

// step is one thing that happens.
type step struct {
	Do   string
	Who  int    // the client
	Code string // of "run"
	Ms   int    // of "hold" and "wait"
}

// String is a step as a plan is printed.
func (s step) String() string {
	text := s.Do
	if s.Who >= 0 {
		text += fmt.Sprintf(" %d", s.Who)
	}
	if s.Code != "" {
		text += fmt.Sprintf(" %q", s.Code)
	}
	if s.Ms > 0 {
		text += fmt.Sprintf(" %dms", s.Ms)
	}
	return text
}

// Bounds of plans: most happens in small ones, and they are quick.
const (
	mostClients = 3
	mostSteps   = 24
)

// plans draws plans. What is likely comes more than once in its list.
func plans() *rapid.Generator[plan] {
	return rapid.Custom(func(t *rapid.T) plan {
		p := plan{
			LogBytes: rapid.SampledFrom([]int64{16 << 20, 256 << 10, 512 << 10}).Draw(t, "log"),
			SSE:      rapid.Bool().Draw(t, "sse"),
			Legacy:   rapid.SliceOfN(rapid.Bool(), 2, mostClients).Draw(t, "legacy"),
		}
		p.Steps = rapid.SliceOfN(steps(len(p.Legacy)), 3, mostSteps).Draw(t, "steps")
		return p
	})
}

func steps(clients int) *rapid.Generator[step] {
	return rapid.Custom(func(t *rapid.T) step {
		s := step{Who: -1, Do: rapid.SampledFrom([]string{
			"run", "run", "run", "run", "run", "wait", "wait", "wait", "reset", "reset", "leave", "freeze", "thaw", "come", "come", "new",
			"kill", "drain", "cut", "hold", "slow", "drip", "calm", "drop",
		}).Draw(t, "do")}
		switch s.Do {
		case "run", "reset", "leave", "freeze", "thaw", "come", "new":
			s.Who = rapid.IntRange(0, clients-1).Draw(t, "who")
		}
		switch s.Do {
		case "run":
			s.Code = strings.Join(rapid.SliceOfN(commands(), 1, 3).Draw(t, "code"), "\n")
		case "hold", "wait":
			s.Ms = rapid.IntRange(1, 60).Draw(t, "ms")
		}
		return s
	})
}

// commands draws what the fake kernel does: see jupytertest.Commands.
func commands() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		size := rapid.SampledFrom([]int{1, 80, 1500, 40_000}).Draw(t, "size")
		switch rapid.SampledFrom([]string{"print", "print", "print", "slow", "say", "warn", "echo", "display", "comm", "sleep", "error"}).Draw(t, "command") {
		case "print":
			return fmt.Sprintf("print %d %d", rapid.IntRange(1, 200_000/(size+400)).Draw(t, "n"), size)
		case "slow":
			return fmt.Sprintf("print %d %d 1", rapid.IntRange(1, 60).Draw(t, "n"), min(size, 1500))
		case "say":
			return "say something"
		case "warn":
			return "warn of something"
		case "echo":
			return "echo something"
		case "display":
			return fmt.Sprintf("display %d", min(size, 1500))
		case "comm":
			return fmt.Sprintf("comm %d %d", rapid.IntRange(0, 3).Draw(t, "n"), min(size, 500))
		case "sleep":
			return fmt.Sprintf("sleep %d", rapid.IntRange(1, 20).Draw(t, "n"))
		default:
			return "error Wrong it is"
		}
	})
}

// play has a plan happen, puts everything right in the end, and returns what is
// wrong with what the clients have received, "" for nothing.
func (p *plan) play(t reporter) (problem string, played stats) {
	w, end := newWorld(t, p.LogBytes)
	defer end()
	g := &game{w: w, follower: w.follow(p.SSE)}
	defer g.follower.end()
	for _, legacy := range p.Legacy {
		enc := wsproto.V1
		if legacy {
			enc = wsproto.Legacy
		}
		g.join(w.newSession(enc))
	}
	for _, s := range p.Steps {
		g.do(s)
	}
	return g.judge(p.LogBytes)
}

// game is a world and who plays in it.
type game struct {
	w        *world
	follower *follower
	clients  []*session // those of now
	gone     []*session // those whose session_id will not come back
}

func (g *game) join(s *session) {
	s.come()
	g.clients = append(g.clients, s)
}

func (g *game) do(s step) {
	var who *session
	if s.Who >= 0 {
		who = g.clients[s.Who]
	}
	switch s.Do {
	case "run":
		if who.lost() {
			who.come()
		}
		who.run(s.Code)
	case "reset":
		who.now().reset()
	case "leave":
		if !who.lost() {
			who.now().leave()
		}
	case "freeze":
		who.now().freeze()
	case "thaw":
		who.now().thaw()
	case "come":
		who.come()
	case "new":
		who.now().freeze()
		g.gone = append(g.gone, who)
		next := g.w.newSession(who.enc)
		next.come()
		g.clients[s.Who] = next
	case "kill":
		g.w.killGateway()
	case "drain":
		g.w.line.release()
		silent := 0
		for _, s := range slices.Concat(g.gone, g.clients) {
			if s.now().frozen() {
				silent++
			}
		}
		g.w.drainGateway(silent)
	case "cut":
		for _, c := range g.w.conns {
			c.doom()
		}
		g.w.line.cut()
	case "hold":
		g.w.line.hold()
		time.AfterFunc(time.Duration(s.Ms)*time.Millisecond, g.w.line.release)
	case "slow":
		g.w.line.delay.Store(int64(5 * time.Millisecond))
	case "drip":
		g.w.line.drips.Store(8 << 10)
	case "calm":
		g.w.line.delay.Store(0)
		g.w.line.drips.Store(0)
	case "drop":
		g.follower.drop()
	case "wait":
		time.Sleep(time.Duration(s.Ms) * time.Millisecond) // it is what the plan says
	}
}

// stats say what a game was about.
type stats struct{ messages, connections, again, lost int }

// judge ends the game: every client comes back to a calm world and runs a last
// cell, by whose end it has all that was before.
func (g *game) judge(logBytes int64) (problem string, played stats) {
	g.do(step{Do: "calm", Who: -1})
	g.w.line.release()
	ours := map[string]bool{}
	last := map[*session]string{}
	for _, s := range g.clients {
		s.come()
		last[s] = s.run("say there")
		for _, part := range []func(arrival) bool{
			func(a arrival) bool { return a.parent == last[s] && a.state == "idle" },
			func(a arrival) bool { return a.parent == last[s] && a.channel == "shell" },
		} {
			if !s.now().await(g.w.t, "the last cell", part) {
				g.w.t.Fatalf("a connection in a calm world ended")
			}
		}
		g.follower.await(last[s])
	}
	events, err := g.follower.end()
	if err != nil {
		return fmt.Sprintf("stream: %v", err), played
	}
	for _, c := range g.w.conns {
		c.reset()
		if c.strange != nil {
			return fmt.Sprintf("a client got what it cannot read: %v", c.strange), played
		}
	}
	all := slices.Concat(g.gone, g.clients)
	for _, s := range all {
		ours[s.id] = true
	}
	m := newModel(g.w.said(), ours, logBytes)
	for i, s := range all {
		h := s.history(last[s])
		played.count(&h)
		if problem := m.check(h); problem != "" {
			return fmt.Sprintf("client %d of %d (%s): %s", i+1, len(all), s.enc, problem), played
		}
	}
	if problem := m.checkStream(events); problem != "" {
		return "stream: " + problem, played
	}
	return "", played
}

// history is what the session received. Its connections are over.
func (s *session) history(last string) history {
	h := history{session: s.id, first: s.first, last: last}
	for _, c := range s.conns {
		h.conns = append(h.conns, leg{floor: c.floor, arrivals: c.arrivals, asked: c.asked, end: c.end})
	}
	return h
}

func (s *stats) count(h *history) {
	had := map[string]bool{}
	for _, l := range h.conns {
		s.connections++
		for _, a := range l.arrivals {
			switch {
			case a.ping:
			case a.lost != nil:
				s.lost += a.lost.messages
			case had[a.id]:
				s.again++
			default:
				had[a.id] = true
				s.messages++
			}
		}
	}
}
