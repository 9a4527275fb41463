// Package trust decides whether a signature of an image counts: whether it was
// made by one of the keys, or in the name of one of the identities, that it was
// given, over the image in question. It asks no network: who vouches for
// certificates, logs and times is in a file. It knows nothing of where images
// and signatures are kept, and nothing of what follows from its answer.
package trust
