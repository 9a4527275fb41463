package conformance

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"kernelgw/conformance/probe"
)

var kernelChecks = []check{
	{name: "StartAnswers201WithLocationAndModel", run: startAnswers201},
	{name: "NameAndNullPathStartAKernel", run: nameAndNullPath},
	{name: "PythonIsPython3", run: pythonIsPython3},
	{name: "UnknownSpecIsRefusedWithAMessage", run: unknownSpec},
	{
		name: "UnknownSpecIs501", run: unknownSpecIs501,
		extension: &extension{because: "it answers 500, as if the server had failed", fails: "answered 500"},
	},
	{name: "KernelBodyThatIsNoJSONIs400", run: kernelBodyNoJSON},
	{
		name: "BodyOfInvalidUTF8Is400", run: invalidUTF8,
		extension: &extension{because: "it answers 500", fails: "answered 500"},
	},
	{name: "ClientMayChooseTheKernelID", run: clientChoosesKernelID},
	{
		name: "MalformedKernelIDIs400", run: malformedKernelID,
		extension: &extension{because: "it answers 500", fails: "answered 500"},
	},
	{name: "KernelListIsCompleteAtOnce", run: kernelListComplete},
	{name: "UnknownKernelIs404", run: unknownKernel},
	{
		name: "RestartOfAnUnknownKernelIs404", run: restartOfUnknownKernel,
		extension: &extension{because: "it answers 500", fails: "answered 500"},
	},
	{name: "DeleteIs204Then404", run: deleteKernel},
	{name: "InterruptIs204AndRaisesInTheCell", run: interruptRaises},
	{name: "RestartIs200WithModelAndFreshState", run: restartIsFresh},
	{name: "ConnectionsCountOpenSockets", run: connectionsCount},
	{name: "ExecutionStateFollowsTheCell", run: executionStateFollows},
	{name: "KernelInfoIsNoActivity", run: kernelInfoIsNoActivity},
	{
		name: "KernelEnvironmentIsDataAndAllowListed", run: kernelEnvironment,
		extension: &extension{because: "it ignores env, so gateway clients cannot pass KERNEL_*", fails: "KERNEL_\\w+ is \"\""},
	},
	{
		name: "RequestsDuringARestartAreDeliveredAfterIt", run: requestsDuringRestart,
		extension: &extension{because: "it loses what is sent on a socket that outlives a restart, or the output of that", fails: `waiting 20s for a cell|stdout is ""`, atTimes: true},
	},
}

// model checks the fields that gateway clients crash without.
func model(t testing.TB, k probe.Kernel) probe.Kernel {
	t.Helper()
	if k.ID == "" || k.Name == "" || k.LastActivity == "" || k.ExecutionState == "" || k.Connections == nil {
		t.Errorf("kernel model lacks a field: %+v", k)
	}
	return k
}

func get(t testing.TB, s *target, id string) probe.Kernel {
	t.Helper()
	var k probe.Kernel
	s.Do(t, "GET", "api/kernels/"+id, nil).Want(t, 200).Decode(t, &k)
	return model(t, k)
}

// list reads a list. A stock server answers 500 when a kernel ends meanwhile.
func list(t testing.TB, s *target, path string, all any) {
	t.Helper()
	answer := s.Do(t, "GET", path, nil)
	for range 5 {
		if s.stock && answer.Status == 500 {
			answer = s.Do(t, "GET", path, nil)
		}
	}
	answer.Want(t, 200).Decode(t, all)
}

// eventually waits until a kernel's model is as wanted.
func eventually(t testing.TB, s *target, id, what string, within time.Duration, want func(probe.Kernel) bool) probe.Kernel {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		k := get(t, s, id)
		if want(k) {
			return k
		}
		if time.Now().After(deadline) {
			t.Fatalf("kernel was not %s within %v: %+v (connections %d)", what, within, k, *k.Connections)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func startAnswers201(t testing.TB, s *target) {
	answer := s.Do(t, "POST", "api/kernels", nil).Want(t, 201)
	var k probe.Kernel
	answer.Decode(t, &k)
	s.Adopt(t, k.ID)
	model(t, k)
	if location := answer.Header.Get("Location"); !strings.HasSuffix(location, "/api/kernels/"+k.ID) {
		t.Errorf("Location is %q", location)
	}
	if !slices.Contains([]string{"starting", "idle"}, k.ExecutionState) {
		t.Errorf("execution_state is %q", k.ExecutionState)
	}
	if got := get(t, s, k.ID); got.ID != k.ID || got.Name != k.Name {
		t.Errorf("GET gives %+v for %+v", got, k)
	}
}

func nameAndNullPath(t testing.TB, s *target) {
	var k probe.Kernel
	s.Do(t, "POST", "api/kernels", `{"name":"python3","path":null}`).Want(t, 201).Decode(t, &k)
	s.Adopt(t, k.ID)
	if k.Name != "python3" {
		t.Errorf("name is %q", k.Name)
	}
	s.Do(t, "POST", "api/kernels", `{"name":"python3","path":"no/such/dir"}`).Want(t, 201).Decode(t, &k)
	s.Adopt(t, k.ID)
}

func pythonIsPython3(t testing.TB, s *target) {
	var k probe.Kernel
	s.Do(t, "POST", "api/kernels", `{"name":"python"}`).Want(t, 201).Decode(t, &k)
	s.Adopt(t, k.ID)
	w := s.Dial(t, k.ID, probe.Dialing{})
	if got := w.Run(t, "import sys; print(sys.version_info.major)").Stdout; got != "3\n" {
		t.Errorf("stdout is %q", got)
	}
}

func unknownSpec(t testing.TB, s *target) {
	for path, body := range map[string]string{
		"api/kernels":  `{"name":"no-such-kernel"}`,
		"api/sessions": `{"path":"x.ipynb","type":"notebook","kernel":{"name":"no-such-kernel"}}`,
	} {
		message, _ := s.Do(t, "POST", path, body).Want(t, 500, 501).Object(t)["message"].(string)
		if message == "" {
			t.Errorf("POST %s gives no message", path)
		}
	}
}

func unknownSpecIs501(t testing.TB, s *target) {
	message, _ := s.Do(t, "POST", "api/kernels", `{"name":"no-such-kernel"}`).Want(t, 501).Object(t)["message"].(string)
	if !strings.Contains(message, "no-such-kernel") {
		t.Errorf("message %q does not name the kernel", message)
	}
}

func kernelBodyNoJSON(t testing.TB, s *target) {
	s.Do(t, "POST", "api/kernels", `{"name":`).Want(t, 400)
}

func invalidUTF8(t testing.TB, s *target) {
	s.Do(t, "POST", "api/kernels", "\xff\xfe").Want(t, 400)
	s.Do(t, "POST", "api/sessions", "{\"path\":\"\xff\",\"type\":\"").Want(t, 400)
}

func clientChoosesKernelID(t testing.TB, s *target) {
	id := probe.ID()
	var k probe.Kernel
	s.Do(t, "POST", "api/kernels", map[string]string{"kernel_id": id}).Want(t, 201).Decode(t, &k)
	s.Adopt(t, k.ID)
	if k.ID != id {
		t.Fatalf("id is %s, want %s", k.ID, id)
	}
	// Asking again gives the same kernel or a conflict, never a second one.
	again := s.Do(t, "POST", "api/kernels", map[string]string{"kernel_id": id}).Want(t, 201, 409)
	if again.Status == 201 {
		again.Decode(t, &k)
		if k.ID != id {
			t.Errorf("asking again gave kernel %s", k.ID)
			s.Adopt(t, k.ID)
		}
	}
}

func malformedKernelID(t testing.TB, s *target) {
	for _, id := range []string{"../../etc", "x", "a b", "$(id)", strings.Repeat("a", 5000)} {
		s.Do(t, "POST", "api/kernels", map[string]string{"kernel_id": id}).Want(t, 400)
	}
}

func kernelListComplete(t testing.TB, s *target) {
	ids := func() []string {
		t.Helper()
		var all []probe.Kernel
		list(t, s, "api/kernels", &all)
		var found []string
		for _, k := range all {
			found = append(found, model(t, k).ID)
		}
		return found
	}
	first, second := s.StartKernel(t).ID, s.StartKernel(t).ID
	if ids := ids(); !slices.Contains(ids, first) || !slices.Contains(ids, second) {
		t.Fatalf("%s or %s is not in the list %v", first, second, ids)
	}
	s.Do(t, "DELETE", "api/kernels/"+first, nil).Want(t, 204)
	if ids := ids(); slices.Contains(ids, first) || !slices.Contains(ids, second) {
		t.Errorf("after deleting %s the list is %v, want %s still in it", first, ids, second)
	}
}

func unknownKernel(t testing.TB, s *target) {
	id := probe.ID()
	s.Do(t, "GET", "api/kernels/"+id, nil).Want(t, 404)
	s.Do(t, "DELETE", "api/kernels/"+id, nil).Want(t, 404)
	s.Do(t, "POST", "api/kernels/"+id+"/interrupt", nil).Want(t, 404)
	s.Do(t, "GET", "api/kernels/not-an-id", nil).Want(t, 404)
}

func restartOfUnknownKernel(t testing.TB, s *target) {
	s.Do(t, "POST", "api/kernels/"+probe.ID()+"/restart", nil).Want(t, 404)
}

func deleteKernel(t testing.TB, s *target) {
	k := s.StartKernel(t)
	s.Dial(t, k.ID, probe.Dialing{}).Run(t, "1")
	s.Do(t, "DELETE", "api/kernels/"+k.ID, nil).Want(t, 204)
	s.Do(t, "GET", "api/kernels/"+k.ID, nil).Want(t, 404)
	s.Do(t, "DELETE", "api/kernels/"+k.ID, nil).Want(t, 404)
}

func interruptRaises(t testing.TB, s *target) {
	k := s.StartKernel(t)
	w := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID()})
	for _, body := range []any{nil, "{}"} {
		cell := w.Start(t, "import time\nprint('begun', flush=True)\ntime.sleep(60)")
		w.Wait(t, probe.Patience, "the cell to begin", func(m probe.Message) bool { return strings.Contains(m.Field("text"), "begun") })
		s.Do(t, "POST", "api/kernels/"+k.ID+"/interrupt", body).Want(t, 204)
		reply := w.Finish(t, cell, 20*time.Second).Reply
		if reply.Field("status") != "error" || reply.Field("ename") != "KeyboardInterrupt" {
			t.Errorf("reply is %.300s", reply.Content)
		}
	}
}

func restartIsFresh(t testing.TB, s *target) {
	k := s.StartKernel(t)
	session := probe.ID()
	w := s.Dial(t, k.ID, probe.Dialing{Session: session})
	w.Run(t, "marker = 1")
	for _, body := range []any{nil, "{}"} {
		var again probe.Kernel
		s.Do(t, "POST", "api/kernels/"+k.ID+"/restart", body).Want(t, 200).Decode(t, &again)
		if model(t, again).ID != k.ID {
			t.Fatalf("restart changed the id to %s", again.ID)
		}
		w.Close()
		w = s.Dial(t, k.ID, probe.Dialing{Session: session})
		if got := w.Run(t, "print('marker' in globals()); marker = 1").Stdout; got != "False\n" {
			t.Errorf("after a restart: %q", got)
		}
	}
}

func connectionsCount(t testing.TB, s *target) {
	k := s.StartKernel(t)
	if *k.Connections != 0 {
		t.Errorf("a new kernel has %d connections", *k.Connections)
	}
	one := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID()})
	two := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID()})
	one.Run(t, "1")
	two.Run(t, "1")
	if got := *get(t, s, k.ID).Connections; got != 2 {
		t.Errorf("%d connections, want 2", got)
	}
	one.Close()
	eventually(t, s, k.ID, "at one connection", probe.Patience, func(k probe.Kernel) bool { return *k.Connections == 1 })
	two.Drop()
	eventually(t, s, k.ID, "at no connection", probe.Patience, func(k probe.Kernel) bool { return *k.Connections == 0 })
}

func executionStateFollows(t testing.TB, s *target) {
	k := s.StartKernel(t)
	w := s.Dial(t, k.ID, probe.Dialing{})
	w.Run(t, "1")
	eventually(t, s, k.ID, "idle", probe.Patience, func(k probe.Kernel) bool { return k.ExecutionState == "idle" })
	cell := w.Start(t, "import time; time.sleep(4)")
	eventually(t, s, k.ID, "busy", whileAsleep, func(k probe.Kernel) bool { return k.ExecutionState == "busy" })
	w.Finish(t, cell, probe.Patience)
	eventually(t, s, k.ID, "idle", probe.Patience, func(k probe.Kernel) bool { return k.ExecutionState == "idle" })
}

func kernelInfoIsNoActivity(t testing.TB, s *target) {
	k := s.StartKernel(t)
	w := s.Dial(t, k.ID, probe.Dialing{})
	w.Run(t, "1")
	// The model may follow the socket by a moment, and on a busy machine by more than
	// that: hence also by the clock, which is the same for all of us here.
	for last, since := get(t, s, k.ID).LastActivity, time.Now(); time.Since(since) < 500*time.Millisecond; {
		time.Sleep(20 * time.Millisecond)
		if now := get(t, s, k.ID).LastActivity; now != last {
			last, since = now, time.Now()
		}
	}
	sent := time.Now().UTC()
	w.Finish(t, w.Send(t, probe.Outgoing{Channel: "shell", Type: "kernel_info_request"}), probe.Patience)
	time.Sleep(800 * time.Millisecond)
	before := get(t, s, k.ID).LastActivity
	if last, err := time.Parse(time.RFC3339Nano, before); err != nil || last.After(sent) {
		t.Errorf("kernel_info, sent at %s, moved last_activity to %s (%v)", sent.Format(time.RFC3339Nano), before, err)
	}
	w.Run(t, "1")
	eventually(t, s, k.ID, "active again", probe.Patience, func(k probe.Kernel) bool { return k.LastActivity > before })
}

func kernelEnvironment(t testing.TB, s *target) {
	hostile := map[string]string{
		"KERNEL_SHELL":    "$(id) `id` ; id | id",
		"KERNEL_TEMPLATE": "{{7*7}} {% raw %} ${HOME}",
		"KERNEL_LINES":    "a\nb: c\r\n- d",
	}
	env := map[string]string{"PYTHONSTARTUP": "/etc/passwd", "LD_AUDIT": "/nowhere.so", "LD_PRELOAD_PROBE": "1"}
	for k, v := range hostile {
		env[k] = v
	}
	var k probe.Kernel
	s.Do(t, "POST", "api/kernels", map[string]any{"name": "python3", "env": env}).Want(t, 201).Decode(t, &k)
	s.Adopt(t, k.ID)
	out := s.Dial(t, k.ID, probe.Dialing{}).Run(t, "import os, json; print(json.dumps(dict(os.environ)))").Stdout
	var got map[string]string
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v: %.200s", err, out)
	}
	for name, want := range hostile {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	for _, name := range []string{"PYTHONSTARTUP", "LD_AUDIT", "LD_PRELOAD_PROBE"} {
		if v, ok := got[name]; ok {
			t.Errorf("%s=%q reached the kernel", name, v)
		}
	}
}

func requestsDuringRestart(t testing.TB, s *target) {
	k := s.StartKernel(t)
	w := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID()})
	w.Run(t, "1")
	for i := range 3 {
		s.Do(t, "POST", "api/kernels/"+k.ID+"/restart", nil).Want(t, 200)
		code := fmt.Sprintf("print('after restart %d')", i)
		if got := w.Finish(t, w.Start(t, code), 20*time.Second).Stdout; got != fmt.Sprintf("after restart %d\n", i) {
			t.Errorf("stdout is %q", got)
		}
	}
}
