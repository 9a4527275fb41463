package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"time"

	"kernelgw/sandboxes/agentapi"
)

// convertRoutes are those of an agent of terminals, whose user they run as.
var convertRoutes = []route{
	{http.MethodGet, "/v1/exporters", (*Agent).getExporters},
	{http.MethodPost, "/v1/convert", (*Agent).postConvert},
}

// transferTimeout bounds the way of a notebook here, and of each piece of a
// document back.
const transferTimeout = 2 * time.Minute

// outcome is the first line of what the script writes.
type outcome struct {
	agentapi.Document
	Status  int    `json:"status"` // of HTTP; 0 when there is a document
	Message string `json:"message"`
}

func (a *Agent) getExporters(w http.ResponseWriter, r *http.Request) {
	output, err := a.terminals.conversions.run(r.Context(), nil, "", nil)
	if errors.Is(err, errNoPython) {
		answer(w, struct{}{})
		return
	}
	if err != nil {
		a.failConversion(w, err)
		return
	}
	defer output.Close()
	found := map[string]agentapi.Exporter{}
	if err := json.NewDecoder(io.LimitReader(output, agentapi.MaxBodyBytes)).Decode(&found); err != nil {
		fail(w, http.StatusUnprocessableEntity, "nbconvert did not say what it can make")
		return
	}
	answer(w, found)
}

func (a *Agent) postConvert(w http.ResponseWriter, r *http.Request) {
	var asked agentapi.ConvertRequest
	if json.Unmarshal([]byte(r.URL.Query().Get("request")), &asked) != nil || !agentapi.ValidExporter(asked.Exporter) {
		fail(w, http.StatusBadRequest, "the request is no ConvertRequest")
		return
	}
	c := a.terminals.conversions
	leave, err := c.enter(r.Context())
	if err != nil {
		a.failConversion(w, err)
		return
	}
	defer leave()
	notebook, err := a.receive(w, r)
	if err != nil {
		return // it has answered
	}
	defer notebook.Close()
	a.terminals.files.Do(a.terminals.awaitFiles)
	output, err := c.run(r.Context(), &conversion{asked, agentapi.MaxDocumentBytes}, path.Dir("/" + asked.Path)[1:], notebook)
	if err != nil {
		a.failConversion(w, err)
		return
	}
	defer output.Close()
	a.sendDocument(w, output)
}

// receive takes a notebook. It has answered when it fails.
func (a *Agent) receive(w http.ResponseWriter, r *http.Request) (*os.File, error) {
	f, err := unnamedFile(a.opts.RuntimeDir)
	if err != nil {
		a.opts.Log.Error("cannot convert a notebook", "error", err.Error())
		fail(w, http.StatusInsufficientStorage, "the sandbox has no room for the notebook")
		return nil, err
	}
	control := http.NewResponseController(w)
	control.SetReadDeadline(time.Now().Add(transferTimeout))
	_, err = io.Copy(f, http.MaxBytesReader(w, r.Body, agentapi.MaxNotebookBytes))
	control.SetReadDeadline(time.Time{})
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		fail(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("the notebook has more than %d bytes", tooLarge.Limit))
	case err != nil:
		fail(w, http.StatusInsufficientStorage, "the notebook cannot be received: "+err.Error())
	default:
		if _, err = f.Seek(0, 0); err == nil {
			return f, nil
		}
		fail(w, http.StatusInternalServerError, err.Error())
	}
	f.Close()
	return nil, err
}

// failConversion answers for one that has no outcome.
func (a *Agent) failConversion(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, errNoPython):
		fail(w, http.StatusNotImplemented, "The image of this workspace has no python3, and so no nbconvert")
	case errors.Is(err, errTooMany):
		fail(w, http.StatusTooManyRequests, err.Error())
	case errors.Is(err, errOver):
		fail(w, http.StatusGone, "the sandbox is ending")
	case errors.Is(err, errTooLong):
		fail(w, http.StatusUnprocessableEntity, fmt.Sprintf("nbconvert took longer than %v and was ended", a.terminals.conversions.patience))
	case errors.Is(err, context.Canceled):
		fail(w, http.StatusGone, "nobody waits for it") // nor for this
	default:
		fail(w, http.StatusUnprocessableEntity, err.Error())
	}
}

// sendDocument sends what the script wrote.
func (a *Agent) sendDocument(w http.ResponseWriter, output *os.File) {
	content := bufio.NewReaderSize(output, agentapi.MaxLineBytes)
	line, err := content.ReadSlice('\n')
	var made outcome
	if err != nil || json.Unmarshal(line, &made) != nil {
		fail(w, http.StatusUnprocessableEntity, "nbconvert made no document")
		return
	}
	if made.Status != 0 {
		fail(w, min(max(made.Status, 400), 599), made.Message)
		return
	}
	head, err := json.Marshal(made.Document)
	if err != nil {
		fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	control := http.NewResponseController(w)
	control.SetWriteDeadline(time.Now().Add(transferTimeout))
	_, err = w.Write(append(head, '\n'))
	for err == nil { // the caller may be gone
		control.SetWriteDeadline(time.Now().Add(transferTimeout))
		_, err = io.CopyN(w, content, 1<<20)
	}
}
