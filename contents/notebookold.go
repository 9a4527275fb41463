package contents

import (
	"bytes"
	"encoding/json"
	"strings"
)

// oldNotebookBytes bounds a notebook of nbformat 3, which is taken apart in
// memory. They are from before 2015.
const oldNotebookBytes = 64 << 20

// upgraded returns a notebook of nbformat 3 as one of nbformat 4: its worksheets
// become one list of cells, and outputs have their data by kind.
func upgraded(text []byte) (*notebook, error) {
	if len(text) > oldNotebookBytes {
		return nil, noNotebook("its nbformat is 3, and it is larger than %d bytes", oldNotebookBytes)
	}
	var old struct {
		Metadata   map[string]any `json:"metadata"`
		Minor      json.Number    `json:"nbformat_minor"`
		Worksheets []struct {
			Cells []map[string]any `json:"cells"`
		} `json:"worksheets"`
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&old); err != nil {
		return nil, noNotebook("its nbformat is 3, and it is not as that should be: %v", err)
	}
	cells := []map[string]any{}
	for _, sheet := range old.Worksheets {
		for _, cell := range sheet.Cells {
			upgradeCell(cell)
			cells = append(cells, cell)
		}
	}
	if old.Metadata == nil {
		old.Metadata = map[string]any{}
	}
	delete(old.Metadata, "name")
	delete(old.Metadata, "signature")
	current, err := json.Marshal(map[string]any{"cells": cells, "metadata": old.Metadata, "nbformat": 4, "nbformat_minor": currentMinor})
	if err != nil {
		return nil, err
	}
	return openNotebook(&spool{memory: current, size: int64(len(current))})
}

func upgradeCell(cell map[string]any) {
	metadata, ok := cell["metadata"].(map[string]any)
	if !ok {
		metadata = map[string]any{}
		cell["metadata"] = metadata
	}
	switch cell["cell_type"] {
	case "code":
		delete(cell, "language")
		if collapsed, ok := cell["collapsed"]; ok {
			metadata["collapsed"] = collapsed
			delete(cell, "collapsed")
		}
		rename(cell, "input", "source", "")
		rename(cell, "prompt_number", "execution_count", nil)
		outputs, _ := cell["outputs"].([]any)
		for _, output := range outputs {
			if members, ok := output.(map[string]any); ok {
				upgradeOutput(members)
			}
		}
		if outputs == nil {
			cell["outputs"] = []any{}
		}
	case "heading":
		cell["cell_type"] = "markdown"
		level := 1
		if n, ok := cell["level"].(json.Number); ok {
			if parsed, err := n.Int64(); err == nil && parsed >= 1 && parsed <= 6 {
				level = int(parsed)
			}
		}
		delete(cell, "level")
		cell["source"] = strings.Repeat("#", level) + " " + strings.ReplaceAll(strings.TrimSuffix(joinedText(cell["source"]), "\n"), "\n", " ")
	case "html":
		cell["cell_type"] = "markdown"
	}
}

// oldKinds are the names that kinds of data had.
var oldKinds = map[string]string{
	"text": "text/plain", "html": "text/html", "svg": "image/svg+xml", "png": "image/png", "jpeg": "image/jpeg", "latex": "text/latex",
	"json": "application/json", "javascript": "application/javascript",
}

func upgradeOutput(output map[string]any) {
	switch output["output_type"] {
	case "pyout":
		output["output_type"] = "execute_result"
		rename(output, "prompt_number", "execution_count", nil)
	case "display_data":
	case "pyerr":
		output["output_type"] = "error"
		return
	case "stream":
		rename(output, "stream", "name", "stdout")
		return
	default:
		return
	}
	if _, ok := output["metadata"].(map[string]any); !ok {
		output["metadata"] = map[string]any{}
	}
	data := map[string]any{}
	for key, value := range output {
		switch key {
		case "output_type", "execution_count", "metadata":
			continue
		case "json":
			var parsed any
			if json.Unmarshal([]byte(joinedText(value)), &parsed) == nil {
				value = parsed
			}
		}
		delete(output, key)
		if kind, ok := oldKinds[key]; ok {
			key = kind
		}
		data[key] = value
	}
	output["data"] = data
}

// rename gives a member another name, and a value if it has none.
func rename(members map[string]any, from, to string, otherwise any) {
	value, ok := members[from]
	if !ok {
		value = otherwise
	}
	delete(members, from)
	members[to] = value
}

// joinedText returns a text that may be a list of its lines.
func joinedText(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case []any:
		var all strings.Builder
		for _, line := range v {
			text, _ := line.(string)
			all.WriteString(text)
		}
		return all.String()
	}
	return ""
}
