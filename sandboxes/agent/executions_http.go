package agent

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"kernelgw/sandboxes/agentapi"
)

var executionRoutes = []route{
	{http.MethodGet, "/v1/executions", (*Agent).getExecutions},
	{http.MethodPost, "/v1/executions", (*Agent).postExecution},
	{http.MethodPost, "/v1/executions/input", (*Agent).postInput},
	{http.MethodGet, "/v1/executions/{id}", (*Agent).getExecution},
	{http.MethodDelete, "/v1/executions/{id}", (*Agent).deleteExecution},
}

// maxExecuteBody is for the JSON of code: each byte may be six there.
const maxExecuteBody = 6*agentapi.MaxCodeBytes + 64<<10

func (a *Agent) getExecutions(w http.ResponseWriter, _ *http.Request) {
	answer(w, a.hub.executions.pending())
}

func (a *Agent) postExecution(w http.ResponseWriter, r *http.Request) {
	var asked agentapi.ExecuteRequest
	if !readJSON(w, r, &asked) {
		return
	}
	if err := asked.Check(); err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	e, err := a.hub.executions.submit(asked)
	if err != nil {
		failExecution(w, err)
		return
	}
	answer(w, e)
}

func (a *Agent) postInput(w http.ResponseWriter, r *http.Request) {
	var reply agentapi.InputReply
	if !readJSON(w, r, &reply) {
		return
	}
	if err := a.hub.executions.reply(reply.Value); err != nil {
		failExecution(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (a *Agent) deleteExecution(w http.ResponseWriter, r *http.Request) {
	if err := a.hub.executions.cancel(r.PathValue("id")); err != nil {
		failExecution(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// getExecution answers when the execution is over or wants input, or when its
// asker has waited long enough.
func (a *Agent) getExecution(w http.ResponseWriter, r *http.Request) {
	wait, _ := strconv.ParseFloat(r.URL.Query().Get("wait"), 64) // else none
	wait = min(max(wait, 0), agentapi.MaxExecuteWait.Seconds())
	patience := time.NewTimer(time.Duration(wait * float64(time.Second)))
	defer patience.Stop()
	for {
		changed := a.hub.executions.news.wait()
		e, err := a.hub.executions.describe(r.PathValue("id"))
		if err != nil {
			failExecution(w, err)
			return
		}
		if e.State.Over() || e.State == agentapi.ExecutionInput {
			break
		}
		select {
		case <-changed:
			continue
		case <-r.Context().Done():
			return
		case <-patience.C:
		}
		break
	}
	e, list, err := a.hub.executions.find(r.PathValue("id"))
	if err != nil {
		failExecution(w, err)
		return
	}
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(executionTimeout))
	w.Header().Set("Content-Type", "application/x-ndjson")
	json.NewEncoder(w).Encode(e) // the asker may be gone
	if r.URL.Query().Get("outputs") == "1" {
		w.Write(list)
	}
}

// executionTimeout is for an answer that may have many outputs.
const executionTimeout = 30 * time.Second

// readJSON reads a request's body, or answers that it cannot be read.
func readJSON(w http.ResponseWriter, r *http.Request, v any) bool {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxExecuteBody))
	if err == nil {
		err = json.Unmarshal(body, v)
	}
	if err != nil {
		fail(w, http.StatusBadRequest, "the body cannot be read: "+err.Error())
		return false
	}
	return true
}

func failExecution(w http.ResponseWriter, err error) {
	status := http.StatusConflict
	switch {
	case errors.Is(err, errUnknown):
		status = http.StatusNotFound
	case errors.Is(err, errManyWait):
		status = http.StatusTooManyRequests
	}
	fail(w, status, err.Error())
}
