package models

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds one model file; the largest of the library has a few KiB.
const maxFile = 1 << 20

// Load reads the models of every *.yaml and *.yml file below fsys, hidden ones
// left out; operator says that they are the operator's, not the library's.
// What a model inherits is not resolved yet: that is NewLibrary's. The error
// joins all faults of all files, each with file, line and key.
func Load(fsys fs.FS, operator bool) ([]*Model, error) {
	return load(fsys, "", operator)
}

// LoadPath is Load for one file or folder of the operator's models.
func LoadPath(name string) ([]*Model, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("models: %w", err)
	}
	if info.IsDir() {
		return load(os.DirFS(name), name, true)
	}
	var faults faultList
	models := loadFile(os.DirFS(filepath.Dir(name)), filepath.Base(name), name, true, &faults)
	checkNames(models, &faults)
	if len(faults) > 0 {
		return nil, faults.err()
	}
	return models, nil
}

// Validate checks one file or folder of the operator's models as gatehouse
// would load it, on top of the library.
func Validate(name string) error {
	_, err := Open(name)
	return err
}

// load names files in faults below prefix.
func load(fsys fs.FS, prefix string, operator bool) ([]*Model, error) {
	var out []*Model
	var faults faultList
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		hidden := strings.HasPrefix(d.Name(), ".") && name != "."
		switch {
		case d.IsDir() && hidden:
			return fs.SkipDir
		case d.IsDir(), hidden, path.Ext(name) != ".yaml" && path.Ext(name) != ".yml":
			return nil
		}
		out = append(out, loadFile(fsys, name, path.Join(filepath.ToSlash(prefix), name), operator, &faults)...)
		return nil
	})
	if err != nil {
		faults = append(faults, fmt.Errorf("models: %w", err))
	}
	checkNames(out, &faults)
	if len(faults) > 0 {
		return nil, faults.err()
	}
	return out, nil
}

// loadFile reads the documents of one file; shown is its name in faults.
func loadFile(fsys fs.FS, name, shown string, operator bool, faults *faultList) []*Model {
	f, err := fsys.Open(name)
	if err != nil {
		faults.add(&Fault{File: shown, Text: err.Error()})
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		faults.add(&Fault{File: shown, Text: err.Error()})
		return nil
	}
	if len(data) > maxFile {
		faults.add(&Fault{File: shown, Text: fmt.Sprintf("larger than %d bytes", maxFile)})
		return nil
	}
	return decodeFile(data, shown, operator, faults)
}

func decodeFile(data []byte, file string, operator bool, faults *faultList) []*Model {
	var out []*Model
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for documents := 0; ; documents++ {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			if documents == 0 {
				faults.add(&Fault{File: file, Text: "no model in this file"})
			}
			return out
		}
		if err != nil {
			faults.add(syntaxFault(file, err))
			return out
		}
		if m := decodeModel(&doc, file, operator, faults); m != nil {
			out = append(out, m)
		}
	}
}

// syntaxFault takes the line out of the YAML package's message.
func syntaxFault(file string, err error) *Fault {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	var line int
	if n, _ := fmt.Sscanf(text, "line %d:", &line); n == 1 {
		_, text, _ = strings.Cut(text, ": ")
	}
	return &Fault{File: file, Line: line, Text: "not YAML: " + text}
}

// checkNames finds models of one tier with the same name.
func checkNames(tier []*Model, faults *faultList) {
	first := make(map[string]*Model, len(tier))
	for _, m := range tier {
		if other, ok := first[m.Name]; ok && m.Name != "" {
			faults.add(m.fault("model", "%s is also in %s", m.Name, other.place("model")))
			continue
		}
		first[m.Name] = m
	}
}

// place is "FILE:LINE" of one of the model's keys.
func (m *Model) place(key string) string {
	f := m.fault(key, "")
	if f.Line == 0 {
		return f.File
	}
	return fmt.Sprintf("%s:%d", f.File, f.Line)
}
