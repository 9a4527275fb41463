package agent

import (
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
	// lastParts bounds how long the end of a kernel waits for what it has printed to
	// be stored.
	lastParts = 10 * time.Second
	// watchedLately is how long ago somebody may have been told a status who is
	// expected to come for the parts that it tells of.
	watchedLately = watchIdle + 5*time.Second
)

// postSeal waits for a while after the part before, if there is anything to seal:
// whoever asks all the time must not have all of it cut to small pieces.
func (a *Agent) postSeal(w http.ResponseWriter, r *http.Request) {
	if a.hub.output.Open() {
		a.sealing.Lock()
		defer a.sealing.Unlock()
		if !sleep(r.Context(), sealEvery-time.Since(a.sealed)) {
			return
		}
		a.hub.output.Seal(time.Now())
		a.sealed = time.Now()
	}
	w.WriteHeader(http.StatusNoContent)
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
	if a.hub.output != nil {
		a.hub.output.Seal(time.Now())
	}
}

// saveOutput waits until what a kernel that is gone has printed is stored, if
// somebody is there who may do that.
func (a *Agent) saveOutput() {
	watched := time.Unix(0, a.watched.Load())
	if a.hub.output == nil || time.Since(watched) > watchedLately {
		return
	}
	await(lastParts, func() bool { return a.hub.output.Parts() == 0 })
	if n := a.hub.output.Parts(); n > 0 {
		a.opts.Log.Error("output is lost that nobody has stored", "kernel", a.opts.Config.KernelID, "parts", n)
	}
}

func (a *Agent) closeOutput() {
	if a.hub.output == nil {
		return
	}
	if err := a.hub.output.Close(); err != nil {
		a.opts.Log.Warn("cannot remove what is left of output", "error", err.Error())
	}
}
