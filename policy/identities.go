package policy

// Identities numbers groups: one key, one Identity, for as long as it lives.
// Numbers are never used twice, so that an old one cannot come to mean
// somebody else. The zero value is ready. Not safe for concurrent use.
type Identities struct {
	byKey map[string]Identity
	last  Identity
}

// NewIdentities returns an allocator that has numbered nothing yet.
func NewIdentities() *Identities { return &Identities{} }

// Get returns the identity of key, a new one where key is new.
func (n *Identities) Get(key string) Identity {
	if id, ok := n.byKey[key]; ok {
		return id
	}
	if n.byKey == nil {
		n.byKey = make(map[string]Identity)
		n.last = max(n.last, FirstWorkloadIdentity-1)
	}
	n.last++
	n.byKey[key] = n.last
	return n.last
}

// Keep forgets all keys but those for which live is true, so that containers
// that come and go under new names do not fill the memory. A forgotten key
// that comes back gets a new number.
func (n *Identities) Keep(live func(key string) bool) {
	for key := range n.byKey {
		if !live(key) {
			delete(n.byKey, key)
		}
	}
}
