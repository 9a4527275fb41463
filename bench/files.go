package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// filePlan is how much is measured of files.
type filePlan struct {
	lists, looks, saves, renames int
}

// Names of what is made in each server's files.
const (
	directory    = "many"
	oneFile      = directory + "/file-0000.txt"
	bigNotebook  = "big.ipynb"
	entriesThere = 1000
	notebookSize = 5 << 20
)

// filer is a client of a server's files. Its connections stay open, and it
// acknowledges what it gets at once.
type filer struct {
	server *server
	http   http.Client
}

func (s *server) filer() *filer {
	return &filer{s, http.Client{
		Timeout:   patience,
		Transport: &http.Transport{DialContext: dialQuick, DisableCompression: true},
	}}
}

// do does one request below api/contents and returns the whole answer, which must
// have a status.
func (f *filer) do(ctx context.Context, method, path, query string, body []byte, want int) ([]byte, error) {
	u := f.server.base.JoinPath("api/contents", path)
	u.RawQuery = query
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "token "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := f.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != want {
		err = fmt.Errorf("%s %s was answered with %s instead of %d: %.300s", method, path, resp.Status, want, answer)
	}
	return answer, err
}

// files takes the figures of a server's files once.
func (s subject) files(ctx context.Context, h *host, p plan, out *figures) error {
	srv, err := s.start(ctx, h)
	if err != nil {
		return err
	}
	defer srv.stop()
	f := srv.filer()
	defer f.http.CloseIdleConnections()
	steps := []struct {
		what string
		do   func(context.Context, *filer, plan, *figures) error
	}{
		{"create", s.create}, {"list", s.list}, {"look", s.look}, {"notebook", s.notebook}, {"rename", s.rename},
	}
	for _, step := range steps {
		if s.server == "s3contents" && (step.what == "look" || step.what == "notebook") {
			continue // it is there for what S3 makes slow
		}
		if err := step.do(ctx, f, p, out); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	most, err := peak(srv.pid())
	if err != nil {
		return err
	}
	out.add(s, memoryPeak, float64(most)/1024)
	return nil
}

// typical is the median of what n calls take after some that do not count, in
// milliseconds.
func typical(n, warmUp int, call func(i int) error) (float64, error) {
	took := make([]float64, 0, n)
	for i := range warmUp + n {
		start := time.Now()
		if err := call(i); err != nil {
			return 0, err
		}
		if i >= warmUp {
			took = append(took, milliseconds(time.Since(start)))
		}
	}
	return median(took), nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// create makes the directory and its files.
func (s subject) create(ctx context.Context, f *filer, _ plan, out *figures) error {
	if _, err := f.do(ctx, http.MethodPut, directory, "", []byte(`{"type":"directory"}`), http.StatusCreated); err != nil {
		return err
	}
	body, err := json.Marshal(map[string]string{"type": "file", "format": "text", "content": strings.Repeat("a line of a file of one KiB 123\n", 32)})
	if err != nil {
		return err
	}
	took, err := typical(entriesThere, 0, func(i int) error {
		_, err := f.do(ctx, http.MethodPut, fmt.Sprintf("%s/file-%04d.txt", directory, i), "", body, http.StatusCreated)
		return err
	})
	out.add(s, createFile, took)
	return err
}

// list measures the listing of the directory.
func (s subject) list(ctx context.Context, f *filer, p plan, out *figures) error {
	if err := f.holds(ctx, directory); err != nil {
		return err
	}
	took, err := typical(p.files.lists, 2, func(int) error {
		_, err := f.do(ctx, http.MethodGet, directory, "content=1", nil, http.StatusOK)
		return err
	})
	out.add(s, listEntries, took)
	return err
}

// holds makes sure that a directory has the files.
func (f *filer) holds(ctx context.Context, directory string) error {
	answer, err := f.do(ctx, http.MethodGet, directory, "content=1", nil, http.StatusOK)
	if err != nil {
		return err
	}
	var model struct{ Content []struct{ Name string } }
	if err := json.Unmarshal(answer, &model); err != nil {
		return err
	}
	if len(model.Content) != entriesThere {
		return fmt.Errorf("the directory %s has %d entries instead of %d", directory, len(model.Content), entriesThere)
	}
	return nil
}

// look measures what clients ask before and after each save.
func (s subject) look(ctx context.Context, f *filer, p plan, out *figures) error {
	const plain, hashed = "content=0", "content=0&hash=1"
	answer, err := f.do(ctx, http.MethodGet, oneFile, hashed, nil, http.StatusOK)
	if err != nil {
		return err
	}
	var model struct{ Hash string }
	if err := json.Unmarshal(answer, &model); err != nil || model.Hash == "" {
		return fmt.Errorf("there is no hash in %.300s", answer)
	}
	took := map[string]float64{}
	for _, query := range []string{plain, hashed} {
		took[query], err = typical(p.files.looks, 20, func(int) error {
			_, err := f.do(ctx, http.MethodGet, oneFile, query, nil, http.StatusOK)
			return err
		})
		if err != nil {
			return err
		}
	}
	out.add(s, lookPlain, took[plain])
	out.add(s, lookHashed, took[hashed])
	if s.server == "stock" {
		out.add(s, lookUneven, took[plain])
	} else {
		out.add(s, lookUneven, took[hashed])
	}
	return nil
}

// notebook measures a large one. Each save changes it.
func (s subject) notebook(ctx context.Context, f *filer, p plan, out *figures) error {
	bodies := [][]byte{notebookOf(notebookSize, "one"), notebookOf(notebookSize, "two")}
	if _, err := f.do(ctx, http.MethodPut, bigNotebook, "", bodies[1], http.StatusCreated); err != nil {
		return err
	}
	saved, err := typical(p.files.saves, 2, func(i int) error {
		_, err := f.do(ctx, http.MethodPut, bigNotebook, "", bodies[i%2], http.StatusOK)
		return err
	})
	if err != nil {
		return err
	}
	out.add(s, saveNotebook, saved)
	loaded, err := typical(p.files.saves, 2, func(int) error {
		answer, err := f.do(ctx, http.MethodGet, bigNotebook, "type=notebook&content=1", nil, http.StatusOK)
		if err == nil && len(answer) < notebookSize {
			err = fmt.Errorf("a notebook of %d bytes came back with %d", notebookSize, len(answer))
		}
		return err
	})
	out.add(s, loadNotebook, loaded)
	return err
}

// rename measures the directory's. Each time it gets a name of its own:
// s3contents leaves the old directory's marker behind, and then refuses that name.
func (s subject) rename(ctx context.Context, f *filer, p plan, out *figures) error {
	at := directory
	took, err := typical(p.files.renames, 0, func(i int) error {
		to := fmt.Sprintf("%s-%d", directory, i)
		body, err := json.Marshal(map[string]string{"path": to})
		if err != nil {
			return err
		}
		_, err = f.do(ctx, http.MethodPatch, at, "", body, http.StatusOK)
		at = to
		return err
	})
	if err != nil {
		return err
	}
	out.add(s, renameDirectory, took)
	return f.holds(ctx, at)
}

// notebookOf is the body that saves a notebook of about a size: cells with text,
// and every fourth with a picture, as people's have.
func notebookOf(size int, mark string) []byte {
	type object map[string]any
	lines := strings.Repeat("a line of output, with \"quotes\" and ü\n", 100)
	picture := strings.Repeat("iVBORw0KGgo", 3000)
	var cells []object
	for written, i := 0, 0; written < size; i++ {
		outputs := []object{{"output_type": "stream", "name": "stdout", "text": lines}}
		written += len(lines) + 200
		if i%4 == 0 {
			outputs = append(outputs, object{
				"output_type": "display_data", "metadata": object{}, "data": object{"image/png": picture, "text/plain": "<Figure>"},
			})
			written += len(picture)
		}
		cells = append(cells, object{
			"cell_type": "code", "id": fmt.Sprintf("cell-%d", i), "execution_count": i, "metadata": object{"trusted": true},
			"source": fmt.Sprintf("import x\nprint(%d, %q)\n", i, mark), "outputs": outputs,
		})
	}
	body, err := json.Marshal(object{"type": "notebook", "format": "json", "content": object{
		"cells": cells, "metadata": object{"kernelspec": object{"name": "python3", "display_name": "Python 3"}},
		"nbformat": 4, "nbformat_minor": 5,
	}})
	if err != nil {
		panic(err) // only strings and numbers
	}
	return slices.Clip(body)
}
