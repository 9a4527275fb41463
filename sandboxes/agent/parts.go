package agent

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// partRoutes give away what a kernel has printed, for good: see
// agentapi.OutputLogConfig.
var partRoutes = []route{
	{http.MethodPost, "/v1/log/seal", (*Agent).postSeal},
	{http.MethodGet, "/v1/log/parts", (*Agent).getPart},
	{http.MethodDelete, "/v1/log/parts/{number}", (*Agent).deleteParts},
}

const (
	// sealEvery is how often those who ask for it make parts of what there is.
	sealEvery = 5 * time.Second
	// sealPatience bounds how long what was printed before takes to be compressed: it
	// is bounded, and takes half a second where the host has nothing else to do.
	sealPatience = 5 * time.Second
	// lastParts bounds how long the end of a kernel waits for what it has printed to
	// be stored.
	lastParts = 10 * time.Second
	// partPatience is after how long without anybody who asks for a part, although there
	// are some, nobody is expected to.
	partPatience = time.Minute
	// watchedLately is how long ago somebody may have been told a status who is
	// expected to come for the parts that it tells of.
	watchedLately = watchIdle + 5*time.Second
)

// postSeal waits for a while after the part before, if there is anything to seal:
// whoever asks all the time must not have all of it cut to small pieces. Those who
// ask at once wait for one part.
func (a *Agent) postSeal(w http.ResponseWriter, r *http.Request) {
	if err := a.sealOnDemand(r.Context()); err != nil {
		fail(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (a *Agent) sealOnDemand(ctx context.Context) error {
	asked := time.Now()
	if !a.hub.output.Open() {
		return nil
	}
	select {
	case a.sealing <- struct{}{}:
		defer func() { <-a.sealing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if a.sealed.After(asked) || !a.hub.output.Open() {
		return nil // somebody else has asked meanwhile, and has it
	}
	if !sleep(ctx, sealEvery-time.Since(a.sealed)) {
		return ctx.Err()
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, sealPatience)
	defer cancel()
	if err := a.hub.output.Seal(ctx); err != nil {
		return err
	}
	a.sealed = began // what was printed since may not be in it
	return nil
}

func (a *Agent) getPart(w http.ResponseWriter, r *http.Request) {
	p, content, ok := a.hub.output.Oldest()
	if !ok {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	line, err := json.Marshal(p)
	if err != nil {
		fail(w, http.StatusInternalServerError, "the part cannot be described")
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	out := newSteadyWriter(r.Context(), w, func(int) {})
	_, _ = out.Write(append(line, '\n')) // an error shows at the end
	_, _ = out.Write(content)
	_ = out.flush() // the reader may be gone: it will ask again
}

func (a *Agent) deleteParts(w http.ResponseWriter, r *http.Request) {
	number, err := strconv.ParseInt(r.PathValue("number"), 10, 64)
	if err != nil {
		fail(w, http.StatusBadRequest, "a part has a number")
		return
	}
	a.hub.output.Stored(number)
	w.WriteHeader(http.StatusNoContent)
}

// sealOutput makes parts of all that was printed.
func (a *Agent) sealOutput() {
	if a.hub.output == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), sealPatience)
	defer cancel()
	if err := a.hub.output.Seal(ctx); err != nil {
		a.opts.Log.Error("not all that was printed is in its log", "kernel", a.opts.Config.KernelID, "error", err.Error())
	}
}

// saveOutput waits until what a kernel that is gone has printed is stored, if
// somebody is there who may do that and comes for it.
func (a *Agent) saveOutput() {
	watched := time.Unix(0, a.watched.Load())
	if a.hub.output == nil || time.Since(watched) > watchedLately {
		return
	}
	log := a.hub.output
	await(lastParts, func() bool { return !log.Busy() && log.Parts() == 0 || log.Neglected() >= partPatience })
	if n := log.Parts(); n > 0 {
		a.opts.Log.Error("output is lost that nobody has stored", "kernel", a.opts.Config.KernelID, "parts", n)
	}
}

// keepOutput makes parts of what is printed until ctx ends.
func (a *Agent) keepOutput(ctx context.Context) {
	if err := a.hub.output.Run(ctx); err != nil {
		a.opts.Log.Warn("cannot remove what is left of output", "error", err.Error())
	}
}
