package conformance

import (
	"encoding/json"
	"fmt"
	"net/url"
	"testing"

	"kernelgw/conformance/probe"
)

var outputChecks = []check{
	{name: "OutputCanBeReadFromAnyEvent", run: outputFromAnyEvent, extension: noLog},
	{name: "EventsOfAnotherKernelAreRefused", run: eventsOfAnotherKernel, extension: noLog},
}

var noLog = &extension{because: "what was said while nobody listened is gone", fails: "GET v1/sessions/[^ ]* answered 404"}

// event is one of a session's stream or pages.
type event struct {
	ID      string
	Seq     int
	Channel string
	Msg     struct {
		Header struct {
			MsgType string `json:"msg_type"`
		}
		Parent struct {
			MsgID string `json:"msg_id"`
		} `json:"parent_header"`
		Content map[string]any
	}
	Lost map[string]int
}

// pages reads a log from a place on.
func pages(t testing.TB, s *target, session, from, query string) []event {
	t.Helper()
	var all []event
	for {
		var page struct {
			Events []event
			Next   string
			End    bool
		}
		s.Do(t, "GET", "v1/sessions/"+session+"/output?from="+url.QueryEscape(from)+query, nil).Want(t, 200).Decode(t, &page)
		all = append(all, page.Events...)
		if from = page.Next; page.End {
			return all
		}
	}
}

func outputFromAnyEvent(t testing.TB, s *target) {
	x := newSession(t, s, map[string]any{"path": probe.ID() + ".ipynb", "type": "notebook", "name": ""})
	w := s.Dial(t, x.Kernel.ID, probe.Dialing{Session: probe.ID()})
	first := w.Run(t, "print('one'); 1")
	second := w.Run(t, "raise ValueError('two')")
	w.Close()

	const channels = "&channels=iopub,shell"
	all := pages(t, s, x.ID, "0", channels+"&limit=3")
	for _, cell := range []probe.Result{first, second} {
		count := map[string]int{}
		for _, e := range all {
			if e.Msg.Parent.MsgID == cell.ID {
				count[e.Channel+" "+e.Msg.Header.MsgType]++
			}
		}
		for _, m := range cell.Messages {
			count[m.Channel+" "+m.Header.MsgType]--
		}
		for name, n := range count {
			if n != 0 {
				t.Errorf("of %s the log has %+d", name, n)
			}
		}
	}
	for i, e := range all {
		if i > 0 && e.Seq <= all[i-1].Seq || e.Lost != nil {
			t.Errorf("event %d follows %d", e.Seq, all[i-1].Seq)
		}
	}
	// The same, as a stream, by the id of the kernel, from the middle on.
	middle := len(all) / 2
	for _, from := range []string{all[middle].ID, fmt.Sprint(all[middle].Seq)} {
		stream := s.Plain(t, "v1/sessions/"+x.Kernel.ID+"/stream?last_event_id="+url.QueryEscape(from)+channels)
		for i := middle; i < len(all); i++ { // the first says where it begins
			var e event
			if err := json.Unmarshal(stream.Next(t, probe.Patience), &e); err != nil {
				t.Fatal(err)
			}
			if e.ID != all[i].ID || i > middle && e.Msg.Header.MsgType != all[i].Msg.Header.MsgType {
				t.Fatalf("from %s event %d is %+v, want %+v", from, i, e, all[i])
			}
		}
		stream.Close()
	}
	// A restart of the kernel is no other log.
	s.Do(t, "POST", "api/kernels/"+x.Kernel.ID+"/restart", nil).Want(t, 200)
	after := pages(t, s, x.ID, all[len(all)-1].ID, channels)
	if len(after) == 0 || after[0].Seq != all[len(all)-1].Seq+1 {
		t.Errorf("after a restart the log goes on with %+v", after)
	}
}

func eventsOfAnotherKernel(t testing.TB, s *target) {
	one, other := s.StartKernel(t), s.sharedKernel(t)
	w := s.Dial(t, one.ID, probe.Dialing{Session: probe.ID()})
	w.Run(t, "1")
	events := pages(t, s, one.ID, "0", "")
	for place, want := range map[string]int{events[0].ID: 410, "1000000": 410, "x": 400, "-1": 400} {
		for _, end := range []string{"output", "stream"} {
			s.Do(t, "GET", "v1/sessions/"+other+"/"+end+"?from="+url.QueryEscape(place), nil).Want(t, want)
		}
	}
	for _, id := range []string{probe.ID(), "x"} {
		for _, end := range []string{"output", "stream"} {
			s.Do(t, "GET", "v1/sessions/"+id+"/"+end, nil).Want(t, 404)
		}
	}
}
