"""De-identification: DICOM PS3.15 Annex E, and what goes with images beside DICOM.

key = HospitalKey.read(Path("hospital.key"))
names = Pseudonymiser(key)
names.pseudonym("12345")            # 'p...': the patient's name in the store
names.shift("12345", study_date)    # the same number of days for all dates of a patient
names.uid("1.2.3")                  # '2.25....'
"""

from evenhand.ingest.deid.keys import HospitalKey
from evenhand.ingest.deid.pseudonyms import OLDEST_AGE_YEARS, Pseudonymiser

__all__ = ["OLDEST_AGE_YEARS", "HospitalKey", "Pseudonymiser"]
