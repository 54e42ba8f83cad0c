// Package statefile writes the small files in which the control plane keeps
// what must outlive a restart: whoever reads one after a crash, or a power cut,
// finds the old content or the new, never a part.
package statefile

import (
	"errors"
	"os"
	"path/filepath"
)

// Write replaces the file at path, for its owner alone to read; the folder must
// be there. When it returns nil the content is on disk.
func Write(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
