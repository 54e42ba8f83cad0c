package docker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"gatehouse/control/statefile"
	"gatehouse/policy"
)

// maxZone is the highest zone that is given to a network: flow keys hold
// zones in 16 bits, and 65535 is left free.
const maxZone = 65534

// zones numbers networks. A network keeps its number while it exists, also over
// restarts, because entries of the kernel's flow map hold it; a number that was
// given back is used again only after all the others, and never in one run.
type zones struct {
	path  string // "" = kept in memory only
	next  policy.Zone
	byNet map[string]policy.Zone
	live  map[policy.Zone]bool
	given int // in this run, and those that it found
	dirty bool
}

// zoneFile is the form on disk.
type zoneFile struct {
	Next  policy.Zone            `json:"next"`
	Zones map[string]policy.Zone `json:"zones"`
}

func loadZones(path string) (*zones, error) {
	z := &zones{path: path, next: 1, byNet: map[string]policy.Zone{}, live: map[policy.Zone]bool{}}
	if path == "" {
		return z, nil
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return z, nil
	}
	if err != nil {
		return nil, fmt.Errorf("zone file: %w", err)
	}
	var f zoneFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("zone file %s: %w; remove it together with the pinned flow map, whose entries hold its numbers", path, err)
	}
	for net, n := range f.Zones {
		if n == 0 || n > maxZone || z.live[n] {
			return nil, fmt.Errorf("zone file %s: network %q has zone %d, which is out of 1-%d or given twice; remove the file together with the pinned flow map, whose entries hold its numbers", path, net, n, maxZone)
		}
		z.byNet[net] = n
		z.live[n] = true
	}
	z.given = len(z.byNet)
	if f.Next >= 1 && f.Next <= maxZone {
		z.next = f.Next
	}
	return z, nil
}

// of returns the network's zone and gives it one if it has none. Only save makes
// a new one durable.
func (z *zones) of(network string) (policy.Zone, error) {
	if n, ok := z.byNet[network]; ok {
		return n, nil
	}
	for range maxZone {
		if z.given == maxZone {
			break
		}
		n := z.next
		z.next = z.next%maxZone + 1
		if z.live[n] {
			continue
		}
		z.given++
		z.byNet[network] = n
		z.live[n] = true
		z.dirty = true
		return n, nil
	}
	return 0, fmt.Errorf("all %d zones were given in this run: restart the gateway", maxZone)
}

// keep gives back the zones of all networks but those.
func (z *zones) keep(networks map[string]bool) {
	for net, n := range z.byNet {
		if !networks[net] {
			delete(z.byNet, net)
			delete(z.live, n)
			z.dirty = true
		}
	}
}

// save writes the file if something changed.
func (z *zones) save() error {
	if !z.dirty || z.path == "" {
		return nil
	}
	data, err := json.MarshalIndent(zoneFile{z.next, z.byNet}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(z.path), 0o700); err != nil {
		return fmt.Errorf("zone file: %w", err)
	}
	if err := statefile.Write(z.path, data); err != nil {
		return fmt.Errorf("zone file: %w", err)
	}
	z.dirty = false
	return nil
}
