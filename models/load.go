package models

import (
	"fmt"
	"io/fs"

	"go.yaml.in/yaml/v3"

	"gatehouse/document"
)

// Load reads the models of every *.yaml and *.yml file below fsys, hidden ones
// left out; operator says that they are the operator's, not the library's.
// What a model inherits is not resolved yet: that is NewLibrary's. The error
// joins all faults of all files, each with file, line and key.
func Load(fsys fs.FS, operator bool) ([]*Model, error) {
	var faults document.Faults
	return decodeFiles(document.CollectFS(fsys, "", &faults), operator, faults)
}

// LoadPath is Load for one file or folder of the operator's models.
func LoadPath(name string) ([]*Model, error) {
	var faults document.Faults
	return decodeFiles(document.Collect(name, &faults), true, faults)
}

// LoadFiles is LoadPath for files that were read already.
func LoadFiles(files []document.File) ([]*Model, error) { return decodeFiles(files, true, nil) }

// Validate checks one file or folder of the operator's models as gatehouse
// would load it, on top of the library.
func Validate(name string) error {
	_, err := Open(name)
	return err
}

func decodeFiles(files []document.File, operator bool, faults document.Faults) ([]*Model, error) {
	var out []*Model
	document.Split(files, &faults, func(doc *yaml.Node, file string) {
		if m := decodeModel(doc, file, operator, &faults); m != nil {
			out = append(out, m)
		}
	})
	checkNames(out, &faults)
	if len(faults) > 0 {
		return nil, faults.Err()
	}
	return out, nil
}

// checkNames finds models of one tier with the same name.
func checkNames(tier []*Model, faults *document.Faults) {
	first := make(map[string]*Model, len(tier))
	for _, m := range tier {
		if other, ok := first[m.Name]; ok && m.Name != "" {
			faults.Add(m.fault("model", "%s is also in %s", m.Name, other.place("model")))
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
