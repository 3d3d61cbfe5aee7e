"""Cases in: BIDS trees and phantoms, checked before anything is written."""
