"""The embedded model beside what a person could install instead."""
